//! The program as it is used at a terminal. The models are untrained: they say anything, control characters among it.
#![cfg(unix)]

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;
#[path = "common/small_model.rs"]
mod small_model;
#[path = "common/terminal.rs"]
mod terminal;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use program::Workspace;
use pty_process::blocking::Command;
use shoestring::chat::Conversation;
use shoestring::checkpoint::Checkpoint;
use shoestring::generate::Limits;
use shoestring::kernels::Kernels;
use shoestring::model::{Model, ModelConfig};
use shoestring::sample::{Sampler, Sampling};
use small_model::{SMALL, save_endless_model, save_model};
use terminal::{End, Terminal};

const SAMPLING: Sampling =
    Sampling { repetition_penalty: 1.0, temperature: 2.0, top_k: 0, min_p: 0.0, top_p: 1.0, seed: 7 };
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const FLAGS: [&str; 8] = ["--temperature", "2", "--min-p", "0", "--top-p", "1", "--seed", "7"];

struct Setup {
    workspace: Workspace,
    model: Model,
}

impl Setup {
    fn new() -> Self {
        let workspace = Workspace::new();
        let path = workspace.path("model.shoe");
        save_model(&path, SMALL, true);
        // By the kernels that the program uses: others differ in the last bits.
        let kernels = match std::env::var("SHOESTRING_KERNEL") {
            Ok(name) => Kernels::select(&name).unwrap(),
            Err(_) => Kernels::best(),
        };
        Setup { workspace, model: Model::new(Checkpoint::open(&path).unwrap(), kernels) }
    }

    /// The program in this folder, which is also its user's home.
    fn command(&self, arguments: &[&str]) -> Command {
        let home = self.workspace.path("home");
        std::fs::create_dir_all(&home).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_shoestring"))
            .args(arguments)
            .current_dir(self.workspace.path(""))
            .env("HOME", home)
            .env("TERM", "xterm-256color");
        for variable in ["XDG_STATE_HOME", "NO_COLOR", "COLUMNS", "LINES"] {
            command = command.env_remove(variable);
        }
        command
    }

    fn chat(&self, arguments: &[&str]) -> Terminal {
        let arguments = [&["chat", "--checkpoint", "model.shoe"], &FLAGS[..], arguments].concat();
        let mut terminal = Terminal::start(self.command(&arguments), 24, 80);
        let introduction = terminal.prompt();
        assert!(introduction.contains("/help lists commands"), "{introduction:?}");
        terminal
    }

    /// The same conversation, held with the library.
    fn conversation(&self, max_tokens: usize) -> Conversation<'_> {
        let limits = Limits { max_tokens, ..Limits::default() };
        Conversation::new(self.model.session(), Sampler::new(SAMPLING), true, limits)
    }
}

/// Holds the program to remember to the bit what the library does: an untrained model's replies depend but little on
/// what it has read.
fn remembers(terminal: &mut Terminal, setup: &Setup, expected: &Conversation<'_>) {
    assert_eq!(terminal.enter("/save state"), "Saved in state.\n");
    assert!(setup.workspace.read("state") == expected.session().save(), "it has read something else");
}

/// The reply as the terminal is to show it.
fn say(conversation: &mut Conversation<'_>, text: &str) -> String {
    let mut reply = String::new();
    conversation
        .reply(text, &mut |piece| {
            reply.push_str(piece);
            Ok(())
        })
        .unwrap();
    shown(&reply) + "\n"
}

fn retry(conversation: &mut Conversation<'_>) -> String {
    let mut reply = String::new();
    conversation
        .retry(&mut |piece| {
            reply.push_str(piece);
            Ok(())
        })
        .unwrap();
    shown(&reply) + "\n"
}

fn shown(text: &str) -> String {
    let show = |character: char| match character {
        '\n' | '\t' => character.to_string(),
        '\0'..='\x1f' => format!("^{}", char::from(character as u8 + 64)),
        '\x7f' => "^?".to_owned(),
        '\u{80}'..='\u{9f}' => "\u{fffd}".to_owned(),
        _ => character.to_string(),
    };
    text.chars().map(show).collect()
}

/// Holds a program to have ended well, without colours.
fn succeeded(end: End) -> String {
    assert!(end.status.success() && end.restored && !has_colours(&end.text), "{end:?}");
    end.text
}

fn has_colours(text: &str) -> bool {
    text.split("\x1b[").skip(1).any(|rest| {
        rest.trim_start_matches(|character: char| character.is_ascii_digit() || character == ';')
            .starts_with('m')
    })
}

#[test]
fn every_command_does_what_it_says() {
    let setup = Setup::new();
    let mut terminal = setup.chat(&["--max-response", "40"]);
    let mut expected = setup.conversation(40);

    let help = terminal.enter("/help");
    for name in [
        "help",
        "undo",
        "retry",
        "reset",
        "save",
        "load",
        "stats",
        "quit",
        "temperature",
        "top-k",
        "top-p",
        "min-p",
        "repetition-penalty",
        "seed",
        "max-response",
    ] {
        assert!(
            help.contains(&format!("\n/{name} ")) || help.starts_with(&format!("/{name} ")),
            "{name}: {help}"
        );
    }
    assert!(help.contains("now 40") && help.contains("//"), "{help}");

    assert_eq!(terminal.enter("Hello"), say(&mut expected, "Hello"));
    assert_eq!(terminal.enter("/save kept"), "Saved in kept.\n");
    assert_eq!(terminal.enter("How are you?"), say(&mut expected, "How are you?"));
    assert_eq!(terminal.enter("/undo"), "Took back: How are you?\n");
    assert_eq!(expected.undo().as_deref(), Some("How are you?"));
    assert_eq!(terminal.enter("[EOS] //x"), say(&mut expected, "[EOS] //x"), "after an undo");
    assert_eq!(terminal.enter("//help"), say(&mut expected, "/help"));
    remembers(&mut terminal, &setup, &expected);
    assert_eq!(terminal.enter("  "), "");

    assert_eq!(terminal.enter("/retry"), retry(&mut expected));
    assert_eq!(terminal.enter("/seed 3"), "seed is 3\n");
    expected.reseed(3);
    assert_eq!(terminal.enter("/retry"), retry(&mut expected));

    for (name, value) in [
        ("temperature", "0.25"),
        ("top-k", "5"),
        ("top-p", "0.5"),
        ("min-p", "0.125"),
        ("repetition-penalty", "1.5"),
        ("seed", "18446744073709551615"),
        ("max-response", "3"),
    ] {
        assert_eq!(terminal.enter(&format!("/{name} {value}")), format!("{name} is {value}\n"));
        assert_eq!(terminal.enter(&format!("/{name}")), format!("{name} is {value}\n"));
    }
    expected.set_sampling(Sampling {
        repetition_penalty: 1.5,
        temperature: 0.25,
        top_k: 5,
        min_p: 0.125,
        top_p: 0.5,
        seed: 0,
    });
    expected.reseed(u64::MAX);
    expected.set_max_tokens(3);
    assert_eq!(terminal.enter("Fine"), say(&mut expected, "Fine"));
    remembers(&mut terminal, &setup, &expected);

    for (line, part) in [
        ("/temperature 101", "between 0 and 100"),
        ("/temperature warm", "between 0 and 100"),
        ("/top-k -1", "between 0 and 1000000000"),
        ("/top-p 1.5", "between 0 and 1"),
        ("/min-p NaN", "between 0 and 1"),
        ("/repetition-penalty 0", "above 0"),
        ("/seed x", "between 0 and 18446744073709551615"),
        ("/max-response 1.5", "between 0 and 1000000000"),
        ("/temprature 1", "did you mean /temperature?"),
        ("/etc", "with //"),
        ("/save", "the name of a file"),
        ("/save model.shoe", "not a saved session"),
        ("/load absent", "absent"),
        ("/load model.shoe", "not a saved session"),
    ] {
        let answer = terminal.enter(line);
        assert!(answer.contains(part) && answer.lines().count() == 1, "{line}: {answer:?}");
    }
    assert_eq!(terminal.enter("Still here?"), say(&mut expected, "Still here?"), "mistakes change nothing");

    let statistics = terminal.enter("/stats");
    assert!(statistics.contains("tokens/s") && statistics.contains("model.shoe"), "{statistics}");
    assert_eq!(terminal.enter("/stats on"), "");
    let with_speed = terminal.enter("And now?");
    let reply = say(&mut expected, "And now?");
    let speed = with_speed.strip_prefix(&reply).unwrap_or_else(|| panic!("{with_speed:?} {reply:?}"));
    assert!(speed.starts_with('[') && speed.ends_with(" tokens/s]\n"), "{speed:?}");
    assert_eq!(terminal.enter("/stats off"), "");

    // Tab completes, here to the end.
    assert_eq!(terminal.enter("/res\t"), "A new conversation.\n");
    expected.reset();
    let nothing = terminal.enter("/undo");
    assert!(nothing.contains("nothing to undo"), "{nothing}");
    assert!(terminal.enter("/retry").contains("no reply"));
    assert_eq!(terminal.enter("Hello"), say(&mut expected, "Hello"));

    assert_eq!(terminal.enter("/load kept"), "Going on with kept.\n");
    expected.load(&setup.workspace.path("kept")).unwrap();
    assert_eq!(terminal.enter("Where were we?"), say(&mut expected, "Where were we?"));
    remembers(&mut terminal, &setup, &expected);

    terminal.send("/quit\r");
    succeeded(terminal.finish());
}

#[test]
fn ctrl_c_stops_the_reply_and_not_the_program() {
    let setup = Setup::new();
    save_endless_model(&setup.workspace.path("endless.shoe"), SMALL);
    let arguments = ["chat", "--checkpoint", "endless.shoe", "--max-response", "1000000000"];
    let mut terminal = Terminal::start(setup.command(&[&arguments[..], &FLAGS].concat()), 24, 80);
    terminal.prompt();
    for key in ["Hello\r", "/retry\r"] {
        terminal.send(key);
        terminal.expect_output(10_000);
        terminal.send(CTRL_C);
        terminal.prompt();
    }
    let answer = terminal.enter("/undo");
    assert_eq!(answer, "Took back: Hello\n", "what was stopped is a turn like others");
    terminal.enter("/max-response 3");
    assert_ne!(terminal.enter("Hello again"), "\n");
    terminal.send(CTRL_D);
    succeeded(terminal.finish());
}

#[test]
fn ctrl_c_at_the_prompt_clears_the_line_and_twice_leaves() {
    let setup = Setup::new();
    let mut terminal = setup.chat(&["--max-response", "5"]);
    let mut expected = setup.conversation(5);
    terminal.send(&format!("never said{CTRL_C}"));
    assert_eq!(terminal.enter("Hello"), say(&mut expected, "Hello"));
    for _ in 0..2 {
        terminal.send(CTRL_C);
        assert!(terminal.prompt().contains("once more leaves"));
        // Something else in between: the next is the first again.
        assert_eq!(terminal.enter("Well?"), say(&mut expected, "Well?"));
    }
    terminal.send(CTRL_C);
    terminal.prompt();
    terminal.send(CTRL_C);
    let text = succeeded(terminal.finish());
    assert!(text.ends_with('\n'), "{text:?}");
}

#[test]
fn a_message_can_have_several_lines() {
    let setup = Setup::new();
    let mut terminal = setup.chat(&["--max-response", "20"]);
    let mut expected = setup.conversation(20);
    let text = "first\n/help\nthird";
    for typed in [
        "\x1b[200~first\r\n/help\rthird\x1b[201~".to_owned(),
        "first\\\r/help\\\rthird".to_owned(),
        "first\x1b\r/help\x1b\rthird".to_owned(),
    ] {
        assert_eq!(terminal.enter(&typed), say(&mut expected, text), "{typed:?}");
        remembers(&mut terminal, &setup, &expected);
    }
    // A paste is shown as it will be said.
    terminal.send("\x1b[200~one\ntwo\x1b[201~");
    terminal.expect_screen(|screen| screen.contents().ends_with("> one\ntwo"));
    assert_eq!(terminal.enter(""), say(&mut expected, "one\ntwo"));
    remembers(&mut terminal, &setup, &expected);
    // Pasted without brackets, or typed ahead: a message each, and none is lost.
    terminal.send("one\rtwo\rthree\r");
    for text in ["one", "two", "three"] {
        assert_eq!(terminal.prompt(), say(&mut expected, text));
    }
    remembers(&mut terminal, &setup, &expected);
    terminal.send(CTRL_D);
    succeeded(terminal.finish());
}

#[test]
fn a_conversation_that_is_left_is_not_kept_in_place_of_an_earlier_one() {
    let setup = Setup::new();
    let mut terminal = setup.chat(&["--session", "kept", "--max-response", "5"]);
    terminal.enter("Hello");
    let kept = setup.workspace.read("kept");
    for leave in ["/reset", "/load other"] {
        terminal.enter("/save other");
        setup.workspace.write("kept", "of another program");
        assert!(terminal.enter("Hi").contains("another program has changed kept"));
        setup.workspace.write("kept", &kept);
        terminal.enter(leave);
        assert!(setup.workspace.read("kept") == kept, "{leave}");
    }
    terminal.send(CTRL_D);
    succeeded(terminal.finish());
    assert!(setup.workspace.read("kept") == kept);
}

#[test]
fn lines_are_edited_by_characters_as_they_are_seen() {
    let setup = Setup::new();
    let mut terminal = setup.chat(&["--max-response", "20"]);
    let mut expected = setup.conversation(20);
    const LEFT: &str = "\x1b[D";
    const BACKSPACE: &str = "\x7f";
    for (typed, text) in [
        (format!("\u{4f60}\u{597d}x{LEFT}{BACKSPACE}"), "\u{4f60}x"),
        (format!("ae\u{301}{BACKSPACE}b"), "ab"),
        (format!("\u{1f600}y{LEFT}{LEFT}z"), "z\u{1f600}y"),
        ("caf\u{e9} na\u{ef}ve".to_owned(), "caf\u{e9} na\u{ef}ve"),
    ] {
        assert_eq!(terminal.enter(&typed), say(&mut expected, text), "{typed:?}");
        remembers(&mut terminal, &setup, &expected);
    }
    // Wide characters take two columns each.
    terminal.send("\u{4f60}\u{597d}");
    terminal.expect_screen(|screen| {
        screen.contents().ends_with("> \u{4f60}\u{597d}") && screen.cursor_position().1 == 6
    });
    assert_eq!(terminal.enter(""), say(&mut expected, "\u{4f60}\u{597d}"));
    remembers(&mut terminal, &setup, &expected);
    // Latin-1, say.
    terminal.send_bytes(b"caf\xe9 ");
    assert!(terminal.prompt().contains("not UTF-8"));
    assert_eq!(terminal.enter("Hello"), say(&mut expected, "Hello"));
    terminal.send(CTRL_D);
    succeeded(terminal.finish());
}

#[test]
fn the_window_may_change_its_size_and_be_narrow() {
    let setup = Setup::new();
    let mut terminal = setup.chat(&["--max-response", "20"]);
    let mut expected = setup.conversation(20);
    let text = "a line that is longer than the window will be";
    terminal.send(text);
    terminal.expect_screen(|screen| screen.cursor_position().1 == 2 + 45);
    // Drawn again: 47 columns are two rows of 20 and 7 columns more.
    terminal.resize_until(10, 20, |screen| {
        screen.cursor_position().1 == 7 && screen.contents().ends_with(&format!("> {text}"))
    });
    assert_eq!(terminal.enter(", dear"), say(&mut expected, &format!("{text}, dear")));
    remembers(&mut terminal, &setup, &expected);
    terminal.resize(24, 80);
    assert_eq!(terminal.enter("wide"), say(&mut expected, "wide"));
    terminal.resize(2, 3);
    assert_eq!(terminal.enter("narrow"), say(&mut expected, "narrow"));
    remembers(&mut terminal, &setup, &expected);
    assert!(terminal.enter("/help").contains("/retry"));
    terminal.send(CTRL_D);
    succeeded(terminal.finish());
}

#[test]
fn what_was_typed_comes_back_another_day() {
    const UP: &str = "\x1b[A";
    let setup = Setup::new();
    let mut terminal = setup.chat(&["--max-response", "5"]);
    let mut expected = setup.conversation(5);
    assert_eq!(terminal.enter("the\\\rfirst"), say(&mut expected, "the\nfirst"));
    assert_eq!(terminal.enter("the second"), say(&mut expected, "the second"));
    assert_eq!(terminal.enter(UP), say(&mut expected, "the second"));
    remembers(&mut terminal, &setup, &expected);
    // However it ends.
    kill(Pid::from_raw(terminal.id() as i32), Signal::SIGKILL).unwrap();
    terminal.finish();
    let mut terminal = setup.chat(&["--max-response", "5"]);
    let mut expected = setup.conversation(5);
    assert_eq!(terminal.enter(&UP.repeat(3)), say(&mut expected, "the\nfirst"));
    remembers(&mut terminal, &setup, &expected);
    terminal.send(CTRL_D);
    succeeded(terminal.finish());
    let files = if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/state" };
    assert!(setup.workspace.exists(&format!("home/{files}/shoestring/chat-history")));
}

#[test]
fn a_home_that_is_not_there_is_said_once() {
    let setup = Setup::new();
    let command = setup.command(&["chat", "--max-response", "2"]).env("HOME", "/dev/null/home");
    let mut terminal = Terminal::start(command, 24, 80);
    let said = [terminal.prompt(), terminal.enter("Hello"), terminal.enter("Hello")].concat();
    assert_eq!(said.matches("not kept").count(), 1, "{said}");
    terminal.send(CTRL_D);
    succeeded(terminal.finish());
}

#[test]
fn signals_from_elsewhere_end_it_and_leave_the_terminal_as_it_was() {
    let setup = Setup::new();
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let terminal = setup.chat(&[]);
        kill(Pid::from_raw(terminal.id() as i32), signal).unwrap();
        let end = terminal.finish();
        assert!(end.status.code() == Some(130) && end.restored, "{signal}: {end:?}");
    }
    let arguments = [&["chat", "--checkpoint", "model.shoe"], &FLAGS[..]].concat();
    let mut dumb = Terminal::start(setup.command(&arguments).env("TERM", "dumb"), 24, 80);
    dumb.expect("leaves.\r\n> ");
    kill(Pid::from_raw(dumb.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(dumb.finish().status.code(), Some(130));
    // In the middle of a reply they end that first, and it is kept.
    save_endless_model(&setup.workspace.path("endless.shoe"), SMALL);
    let arguments =
        ["chat", "--checkpoint", "endless.shoe", "--max-response", "1000000000", "--session", "endless"];
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let mut terminal = Terminal::start(setup.command(&[&arguments[..], &FLAGS].concat()), 24, 80);
        terminal.prompt();
        terminal.send("Hello\r");
        terminal.expect_output(10_000);
        kill(Pid::from_raw(terminal.id() as i32), signal).unwrap();
        let end = terminal.finish();
        assert!(end.status.code() == Some(130) && end.restored, "{signal}: {end:?}");
        assert!(setup.workspace.exists("endless"), "{signal}");
        std::fs::remove_file(setup.workspace.path("endless")).unwrap();
    }
}

#[test]
fn a_session_is_kept_whatever_happens() {
    let setup = Setup::new();
    let mut expected = setup.conversation(20);
    let arguments = ["--max-response", "20", "--session", "kept"];
    let mut terminal = setup.chat(&arguments);
    assert_eq!(terminal.enter("Hello"), say(&mut expected, "Hello"));
    kill(Pid::from_raw(terminal.id() as i32), Signal::SIGKILL).unwrap();
    terminal.finish();
    for text in ["and", "again"] {
        expected.reset();
        expected.load(&setup.workspace.path("kept")).unwrap();
        expected.reseed(SAMPLING.seed);
        let mut terminal = setup.chat(&arguments);
        assert_eq!(terminal.enter(text), say(&mut expected, text));
        terminal.send(CTRL_D);
        succeeded(terminal.finish());
    }
    assert_eq!(setup.workspace.read("kept"), expected.session().save());
}

#[test]
fn dumb_terminals_get_plain_text() {
    let setup = Setup::new();
    let arguments = [&["chat", "--checkpoint", "model.shoe", "--max-response", "20"], &FLAGS[..]].concat();
    let mut expected = setup.conversation(20);
    let mut terminal = Terminal::start(setup.command(&arguments).env("TERM", "dumb"), 24, 80);
    terminal.expect("leaves.\r\n> ");
    terminal.send("Hello\r");
    // The terminal itself shows what is typed.
    terminal.expect(&format!("Hello\r\n{}> ", say(&mut expected, "Hello").replace('\n', "\r\n")));
    terminal.send(CTRL_D);
    let text = succeeded(terminal.finish());
    assert!(!text.contains('\x1b'), "{text:?}");
}

#[test]
fn what_a_model_writes_does_not_control_the_terminal() {
    let setup = Setup::new();
    save_model(&setup.workspace.path("text.shoe"), ModelConfig { layers: 1, ..SMALL }, false);
    let arguments = ["generate", "--checkpoint", "text.shoe", "--prompt", "x", "--max-tokens", "600"];
    let arguments = [&arguments[..], &["--ignore-eos"], &FLAGS].concat();
    let piped = setup.workspace.run(&arguments).success().stdout;
    assert!(piped.contains('\x1b') && piped.contains('\r') && piped.contains('\x7f'), "{piped:?}");
    let terminal = Terminal::start(setup.command(&arguments), 24, 80);
    let text = succeeded(terminal.finish());
    assert_eq!(text.replace("\r\n", "\n"), shown(&piped) + "\n");
    assert!(!text.replace("\r\n", "\n").contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
}

#[test]
fn after_a_training_comes_a_chat_like_any_other() {
    let setup = Setup::new();
    let arguments = program::tiny_training(&["--steps", "2", "--quiet"]);
    let arguments: Vec<&str> = arguments.into_iter().filter(|flag| *flag != "--no-chat").collect();
    let mut terminal = Terminal::start(setup.command(&arguments), 24, 80);
    terminal.prompt();
    terminal.send(CTRL_C);
    terminal.prompt();
    assert_eq!(terminal.enter("/max-response 0"), "");
    assert_eq!(terminal.enter("Hello"), "\n");
    terminal.send(CTRL_D);
    succeeded(terminal.finish());
}
