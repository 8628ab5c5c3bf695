//! Conversations, apart from any terminal: turns taken back and tried again, saved and gone on with.

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;
#[path = "common/small_model.rs"]
mod small_model;

use proptest::prelude::*;
use shoestring::chat::{Conversation, ConversationError, UNDO_LIMIT};
use shoestring::generate::{FinishReason, Limits};
use shoestring::model::{Model, ModelConfig, SessionError};
use shoestring::sample::{Sampler, Sampling};
use shoestring::tokenizer::EOS;
use small_model::{SMALL, save_model, save_model_of_short_lines};
use std::fs;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use tempfile::TempDir;

/// An untrained model: it says anything, but the same in the same state.
static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    save_model(&folder.path().join("model.shoe"), SMALL, true);
    Model::open(folder.path().join("model.shoe")).unwrap()
});

const SAMPLING: Sampling =
    Sampling { repetition_penalty: 1.3, temperature: 1.0, top_k: 0, min_p: 0.0, top_p: 1.0, seed: 1 };

fn conversation(dialogue: bool) -> Conversation<'static> {
    let limits = Limits { max_tokens: 12, ..Limits::default() };
    Conversation::new(MODEL.session(), Sampler::new(SAMPLING), dialogue, limits)
}

fn say(conversation: &mut Conversation<'_>, text: &str) -> String {
    let mut reply = String::new();
    conversation.reply(text, &mut |piece| push(&mut reply, piece)).unwrap();
    reply
}

fn retry(conversation: &mut Conversation<'_>) -> Option<String> {
    let mut reply = String::new();
    let completion = conversation.retry(&mut |piece| push(&mut reply, piece)).unwrap();
    completion.map(|_| reply)
}

fn push(text: &mut String, piece: &str) -> std::io::Result<()> {
    text.push_str(piece);
    Ok(())
}

/// What the model remembers, and what it would say next.
fn future(conversation: &Conversation<'_>) -> (Vec<u8>, Vec<String>) {
    let mut copy = conversation.clone();
    (conversation.session().save(), ["Well?", "And then?"].map(|text| say(&mut copy, text)).into())
}

#[derive(Clone, Debug)]
enum Action {
    Say(String),
    Undo,
    Retry,
    Reset,
    Reseed(u64),
    Temperature(f32),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => "[a-z\u{e9}\\[\\] \n]{0,12}".prop_map(Action::Say),
        3 => Just(Action::Undo),
        2 => Just(Action::Retry),
        1 => Just(Action::Reset),
        1 => any::<u64>().prop_map(Action::Reseed),
        1 => (0f32..2.0).prop_map(Action::Temperature),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Held against whole copies of the conversation, made before each turn.
    #[test]
    fn undo_is_as_if_the_turn_had_never_been(
        dialogue: bool, actions in prop::collection::vec(action(), 0..25),
    ) {
        let mut conversation = conversation(dialogue);
        let mut before: Vec<Conversation<'_>> = Vec::new();
        let mut said = Vec::new();
        for action in actions {
            match action {
                Action::Say(text) => {
                    before.push(conversation.clone());
                    say(&mut conversation, &text);
                    said.push(text);
                }
                Action::Undo => {
                    prop_assert_eq!(conversation.undo(), said.pop());
                    if let Some(copy) = before.pop() {
                        prop_assert_eq!(future(&conversation), future(&copy));
                    }
                }
                Action::Retry => {
                    let mut copy = conversation.clone();
                    copy.reseed(9);
                    let again = copy.undo().map(|text| say(&mut copy, &text));
                    let mut retried = conversation.clone();
                    retried.reseed(9);
                    prop_assert_eq!(retry(&mut retried), again);
                    prop_assert_eq!(future(&retried), future(&copy));
                    prop_assert_eq!(retry(&mut conversation).is_some(), !said.is_empty());
                }
                Action::Reset => {
                    conversation.reset();
                    before.clear();
                    said.clear();
                }
                // Settings are not part of what is undone.
                Action::Reseed(seed) => {
                    conversation.reseed(seed);
                    before.iter_mut().for_each(|copy| copy.reseed(seed));
                }
                Action::Temperature(temperature) => {
                    let sampling = Sampling { temperature, ..conversation.sampling() };
                    conversation.set_sampling(sampling);
                    before.iter_mut().for_each(|copy| copy.set_sampling(sampling));
                }
            }
            prop_assert_eq!(conversation.turns(), said.len());
        }
    }

    #[test]
    fn a_saved_conversation_goes_on_elsewhere(texts in prop::collection::vec("[a-z ]{0,12}", 0..5)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("saved");
        let mut first = conversation(true);
        for text in &texts {
            say(&mut first, text);
        }
        first.save(&path).unwrap();
        let mut second = conversation(true);
        say(&mut second, "something else");
        second.load(&path).unwrap();
        prop_assert_eq!(second.session().save(), first.session().save());
        prop_assert_eq!(second.undo(), None);
        // What is not in the file: where the random numbers are, and which tokens came lately.
        for conversation in [&mut first, &mut second] {
            let sampling = Sampling { repetition_penalty: 1.0, ..SAMPLING };
            conversation.set_sampling(sampling);
            conversation.reseed(3);
        }
        prop_assert_eq!(future(&first), future(&second));
    }
}

#[test]
fn a_retry_says_something_else_unless_the_seed_is_set_again() {
    let mut conversation = conversation(true);
    assert_eq!(retry(&mut conversation), None);
    conversation.reseed(5);
    let first = say(&mut conversation, "Hello");
    let second = retry(&mut conversation).unwrap();
    assert_ne!(second, first);
    for _ in 0..3 {
        conversation.reseed(5);
        assert_eq!(retry(&mut conversation).as_ref(), Some(&first));
    }
    assert_eq!(conversation.turns(), 1);
}

#[test]
fn so_many_turns_can_be_undone_and_no_more() {
    let mut conversation = conversation(false);
    conversation.set_max_tokens(1);
    for turn in 0..UNDO_LIMIT + 5 {
        say(&mut conversation, &turn.to_string());
    }
    for turn in (5..UNDO_LIMIT + 5).rev() {
        assert_eq!(conversation.undo(), Some(turn.to_string()));
    }
    assert_eq!(conversation.undo(), None);
}

/// Held against a session that reads what a text would have there.
#[test]
fn a_reply_in_plain_text_ends_with_one_empty_line() {
    let folder = tempfile::tempdir().unwrap();
    save_model_of_short_lines(&folder.path().join("text.shoe"), SMALL);
    let model = Model::open(folder.path().join("text.shoe")).unwrap();
    let mut ended_by = [0; 3]; // so many line ends of the reply's own
    for seed in 0..100 {
        let sampling = Sampling { repetition_penalty: 1.0, seed, ..SAMPLING };
        let limits = Limits { max_tokens: 3, ..Limits::default() };
        let mut conversation = Conversation::new(model.session(), Sampler::new(sampling), false, limits);
        say(&mut conversation, "Hello");

        let (mut session, mut sampler) = (model.session(), Sampler::new(sampling));
        session.feed_tokens(&[EOS]);
        session.feed("\n\n");
        session.feed("Hello\n");
        let mut reply = Vec::new();
        for _ in 0..3 {
            let token = session.sample(&mut sampler);
            if token == EOS {
                break;
            }
            session.feed_tokens(&[token]);
            reply.extend_from_slice(model.tokenizer().token(token));
            if String::from_utf8_lossy(&reply).contains("\n\n") {
                break;
            }
        }
        let line_ends = reply.iter().rev().take_while(|&&byte| byte == b'\n').count().min(2);
        session.feed(&"\n\n"[line_ends..]);
        assert_eq!(conversation.session().save(), session.save(), "{seed}");
        ended_by[line_ends] += 1;
    }
    assert!(ended_by.iter().all(|&count| count > 0), "{ended_by:?}");
}

#[test]
fn an_interrupted_reply_is_a_turn_like_others() {
    let limits = Limits { max_tokens: usize::MAX, ..Limits::default() };
    let interrupt = limits.interrupt.clone();
    let mut conversation = Conversation::new(MODEL.session(), Sampler::new(SAMPLING), true, limits);
    let before = future(&{
        let mut short = conversation.clone();
        short.set_max_tokens(12);
        short
    });
    let mut reply = String::new();
    let completion = conversation.reply("Hello", &mut |piece| {
        interrupt.store(true, Ordering::Relaxed);
        push(&mut reply, piece)
    });
    assert_eq!(completion.unwrap().finish_reason, FinishReason::Interrupted);
    interrupt.store(false, Ordering::Relaxed);
    conversation.set_max_tokens(12);
    assert!(!reply.is_empty() && conversation.turns() == 1);
    conversation.undo().unwrap();
    assert_eq!(future(&conversation), before);
}

#[test]
fn damaged_and_foreign_files_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    let mut conversation = conversation(true);
    say(&mut conversation, "Hello");
    conversation.save(&path).unwrap();
    say(&mut conversation, "How are you?");
    let before = future(&conversation);
    let bytes = fs::read(&path).unwrap();
    let flipped = (0..bytes.len()).map(|at| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        bytes
    });
    let cut = (0..bytes.len()).map(|length| bytes[..length].to_vec());
    let longer = [[&bytes[..], &[0]].concat()];
    for wrong in flipped.chain(cut).chain(longer) {
        fs::write(&path, wrong).unwrap();
        let error = conversation.load(&path).unwrap_err();
        assert!(matches!(error, ConversationError::Session { .. }), "{error}");
        assert_eq!(error.to_string().lines().count(), 1);
    }
    assert_eq!(future(&conversation), before);
    assert_eq!(conversation.turns(), 2);
}

#[test]
fn only_saved_conversations_are_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let conversation = conversation(true);
    fs::write(path("empty"), "").unwrap();
    for (file, contents) in [("notes.txt", b"my notes"), ("damaged", b"SHOESESS")] {
        fs::write(path(file), contents).unwrap();
        let refused = conversation.save(&path(file));
        assert!(matches!(refused, Err(ConversationError::Occupied { .. })), "{refused:?}");
        assert_eq!(fs::read(path(file)).unwrap(), contents);
    }
    for name in ["empty", "new", "new"] {
        conversation.save(&path(name)).unwrap();
    }
    for place in [folder.path().to_owned(), path("absent/new")] {
        assert!(matches!(conversation.save(&place), Err(ConversationError::Save { .. })));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "nothing is left behind");
}

#[test]
fn another_models_conversation_is_refused() {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    let other = ModelConfig { layers: 1, ..SMALL };
    save_model(&folder.path().join("other.shoe"), other, true);
    let other = Model::open(folder.path().join("other.shoe")).unwrap();
    let others = Conversation::new(other.session(), Sampler::new(SAMPLING), true, Limits::default());
    others.save(&path).unwrap();
    let error = conversation(true).load(&path).unwrap_err();
    let ConversationError::Session { source, .. } = error else { panic!("{error}") };
    assert_eq!(source, SessionError::OtherModel);
    let saved = fs::read(&path).unwrap();
    let error = conversation(true).save(&path).unwrap_err();
    let ConversationError::Occupied { found, .. } = error else { panic!("{error}") };
    assert_eq!(found, SessionError::OtherModel);
    assert_eq!(fs::read(&path).unwrap(), saved);
    let absent = conversation(true).load(&folder.path().join("absent"));
    assert!(matches!(absent, Err(ConversationError::Read { .. })));
}

#[cfg(unix)]
#[test]
fn a_conversation_stays_as_private_as_its_file_was() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved");
    let conversation = conversation(true);
    conversation.save(&path).unwrap();
    for mode in [0o600, 0o640, 0o444] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        conversation.save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
    }
}
