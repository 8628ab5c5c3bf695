//! A terminal with the program in it: what is typed goes in, and what a user would see comes out.

use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};
use std::io::{Read, Write};
use std::num::NonZero;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the program may take for anything before the test fails; it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the line editor writes when it begins to edit, and when it ends.
const EDITING: &str = "\x1b[?2004h";
const EDITED: &str = "\x1b[?2004l";

pub struct Terminal {
    pty: Arc<Pty>,
    child: Child,
    output: Arc<Output>,
    reader: Option<JoinHandle<()>>,
    /// Bytes of the output that have been looked at.
    seen: usize,
}

struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    screen: vt100::Parser,
    /// All that was written, a character cut at the end left out.
    text: String,
    bytes: Vec<u8>,
    closed: bool,
}

impl Terminal {
    /// Starts `command` in a terminal of `rows` and `columns`.
    pub fn start(command: Command, rows: u16, columns: u16) -> Self {
        let (pty, pts) = open().unwrap();
        pty.resize(Size::new(rows, columns)).unwrap();
        let child = command.spawn(pts).unwrap();
        let state = State {
            screen: vt100::Parser::new(at_least_one(rows), at_least_one(columns), 1000),
            text: String::new(),
            bytes: Vec::new(),
            closed: false,
        };
        let output = Arc::new(Output { state: Mutex::new(state), changed: Condvar::new() });
        let pty = Arc::new(pty);
        let (from, to) = (Arc::clone(&pty), Arc::clone(&output));
        let reader = std::thread::spawn(move || follow(&from, &to));
        Terminal { pty, child, output, reader: Some(reader), seen: 0 }
    }

    /// Types `keys`.
    pub fn send(&self, keys: &str) {
        self.send_bytes(keys.as_bytes());
    }

    pub fn send_bytes(&self, keys: &[u8]) {
        (&*self.pty).write_all(keys).unwrap();
    }

    /// Waits until `wanted` finds something in what was written since the last call of this kind, and returns it; its
    /// second value is how much that was.
    fn wait_for<T>(&mut self, what: &str, wanted: impl Fn(&str) -> Option<(T, usize)>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.output.state.lock().unwrap();
        loop {
            if let Some((found, length)) = wanted(&state.text[self.seen..]) {
                self.seen += length;
                return found;
            }
            state = wait(&self.output, state, deadline, deadline, what);
        }
    }

    /// Waits until the program has written `text`.
    pub fn expect(&mut self, text: &str) {
        self.wait_for(&format!("{text:?}"), |written| written.find(text).map(|at| ((), at + text.len())));
    }

    /// Waits until the program has written so many bytes more.
    pub fn expect_output(&mut self, length: usize) {
        self.wait_for(&format!("{length} bytes"), |written| {
            let end = written.char_indices().map(|(at, _)| at).find(|at| *at >= length)?;
            Some(((), end))
        });
    }

    /// Waits for the next line to be edited and returns what the program wrote since the last one: all but the editing.
    pub fn prompt(&mut self) -> String {
        let between = self.wait_for("the prompt", |written| {
            let (before, after) = written.split_once(EDITING)?;
            let prompt = after.find("> ")?;
            let said = before.split_once(EDITED).map_or(before, |(_, said)| said);
            Some((said.to_owned(), before.len() + EDITING.len() + prompt + 2))
        });
        // The line editor ends its own line first.
        let said = between.replace("\r\n", "\n");
        said.strip_prefix('\n').unwrap_or(&said).to_owned()
    }

    /// Enters a line and returns what the program said to it.
    pub fn enter(&mut self, line: &str) -> String {
        self.send(line);
        self.send("\r");
        self.prompt()
    }

    /// Changes the size of the window, of which the program is told.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        self.output
            .state
            .lock()
            .unwrap()
            .screen
            .screen_mut()
            .set_size(at_least_one(rows), at_least_one(columns));
        self.pty.resize(Size::new(rows, columns)).unwrap();
    }

    /// Changes the size of the window, and tells the program until the screen is as `wanted`: the line editor waits in a
    /// plain `read`, and what a signal says just before that call is not seen until the next one, or the next key.
    pub fn resize_until(&mut self, rows: u16, columns: u16, wanted: impl Fn(&vt100::Screen) -> bool) {
        self.resize(rows, columns);
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.output.state.lock().unwrap();
        while !wanted(state.screen.screen()) {
            let soon = deadline.min(Instant::now() + Duration::from_secs(1));
            state = wait(&self.output, state, deadline, soon, "that screen");
            if Instant::now() >= soon {
                kill(Pid::from_raw(self.child.id() as i32), Signal::SIGWINCH).unwrap();
            }
        }
    }

    /// Waits until the screen is as `wanted`.
    pub fn expect_screen(&self, wanted: impl Fn(&vt100::Screen) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.output.state.lock().unwrap();
        while !wanted(state.screen.screen()) {
            state = wait(&self.output, state, deadline, deadline, "that screen");
        }
    }

    /// The program's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the keys mean what they do in a shell: Ctrl-C is a signal, and lines are echoed.
    fn is_restored(&self) -> bool {
        let flags = tcgetattr(&*self.pty).unwrap().local_flags;
        flags.contains(LocalFlags::ISIG | LocalFlags::ICANON | LocalFlags::ECHO)
    }

    /// Waits until the program has ended.
    pub fn finish(mut self) -> End {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.output.state.lock().unwrap();
        while !state.closed {
            state = wait(&self.output, state, deadline, deadline, "the end");
        }
        let text = std::mem::take(&mut state.text);
        drop(state);
        self.reader.take().unwrap().join().unwrap();
        End { status: self.child.wait().unwrap(), text, restored: self.is_restored() }
    }
}

/// What a program left behind.
#[derive(Debug)]
pub struct End {
    pub status: ExitStatus,
    /// All it has written.
    pub text: String,
    /// Whether the terminal is as it was.
    pub restored: bool,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A failed test leaves no program behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn at_least_one(count: u16) -> NonZero<u16> {
    NonZero::new(count).unwrap()
}

/// Reads what the program writes, until it has ended.
fn follow(pty: &Pty, output: &Output) {
    let mut buffer = [0; 4096];
    loop {
        // Linux says EIO once nobody has the terminal open any more.
        let count = { pty }.read(&mut buffer).unwrap_or(0);
        let mut state = output.state.lock().unwrap();
        state.screen.process(&buffer[..count]);
        state.bytes.extend_from_slice(&buffer[..count]);
        let whole = match std::str::from_utf8(&state.bytes) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let bytes: Vec<u8> = state.bytes.drain(..whole).collect();
        state.text.push_str(std::str::from_utf8(&bytes).unwrap());
        state.closed = count == 0;
        output.changed.notify_all();
        if state.closed {
            return;
        }
    }
}

/// Waits until the program has written something, or `until`; fails after `deadline`.
fn wait<'a>(
    output: &'a Output,
    state: MutexGuard<'a, State>,
    deadline: Instant,
    until: Instant,
    what: &str,
) -> MutexGuard<'a, State> {
    let now = Instant::now();
    if now >= deadline {
        let (text, screen) = (state.text.clone(), state.screen.screen().contents());
        drop(state);
        panic!("{what} did not come; written: {text:?}\nscreen:\n{screen}");
    }
    output.changed.wait_timeout(state, until.saturating_duration_since(now)).unwrap().0
}
