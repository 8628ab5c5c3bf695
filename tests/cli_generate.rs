//! `shoestring generate` and `shoestring chat`, run as a program, on an untrained model: it writes anything,
//! broken characters among it.

#[path = "common/dialogue.rs"]
mod dialogue;
#[path = "common/program.rs"]
mod program;
#[path = "common/small_model.rs"]
mod small_model;

use program::{Finished, Workspace, finish};
use shoestring::model::{Model, ModelConfig};
use shoestring::sample::{Sampler, Sampling};
use shoestring::tokenizer::{EOS, Special};
use small_model::{SMALL, save_model};
use std::io::Read;

fn workspace() -> Workspace {
    let workspace = Workspace::new();
    save_model(&workspace.path("dialogue.shoe"), SMALL, true);
    save_model(&workspace.path("text.shoe"), ModelConfig { layers: 1, ..SMALL }, false);
    workspace
}

fn generate(workspace: &Workspace, arguments: &[&str]) -> Finished {
    workspace.run(&[&["generate", "--checkpoint", "text.shoe"], arguments].concat())
}

fn chat(workspace: &Workspace, arguments: &[&str], input: &[u8]) -> Finished {
    workspace.run_with(&[&["chat", "--checkpoint", "dialogue.shoe"], arguments].concat(), input)
}

#[test]
fn only_the_text_is_on_stdout_and_a_seed_repeats_it() {
    let workspace = workspace();
    let run =
        |seed| generate(&workspace, &["--prompt", "Once", "--max-tokens", "50", "--seed", seed]).success();
    let dashes =
        ["--prompt", "- Once", "--stop", "---", "--max-tokens", "5", "--ignore-eos", "--seed", "1", "--json"];
    assert_eq!(generate(&workspace, &dashes).success().json()["completion_tokens"], 5);
    let first = run("1");
    assert_eq!(first.stderr, "");
    assert!(!first.stdout.is_empty());
    assert_eq!(first.stdout, run("1").stdout);
    assert_ne!(first.stdout, run("2").stdout);
}

#[test]
fn the_text_is_what_the_library_writes() {
    let workspace = workspace();
    let seed = 5;
    let run =
        generate(&workspace, &["--prompt", "a [EOS] b", "--max-tokens", "30", "--ignore-eos", "--seed", "5"]);
    let model = Model::open(workspace.path("text.shoe")).unwrap();
    let mut tokens = vec![EOS];
    model.tokenizer().encode(b"a [EOS] b", Special::Match, &mut tokens);
    let mut session = model.session();
    session.feed_tokens(&tokens);
    let mut sampler = Sampler::new(Sampling { seed, ..Sampling::default() });
    let written: Vec<u32> = (0..30).map(|_| session.next_token(&mut sampler)).collect();
    let mut bytes = Vec::new();
    model.tokenizer().decode(&written, &mut bytes).unwrap();
    assert_eq!(run.success().stdout, String::from_utf8_lossy(&bytes));
}

#[test]
fn a_prompt_from_stdin_is_the_same_without_its_line_end() {
    let workspace = workspace();
    let arguments =
        ["generate", "--checkpoint", "text.shoe", "--max-tokens", "20", "--seed", "3", "--ignore-eos"];
    let given = workspace.run(&[&arguments[..], &["--prompt", "caf\u{e9} -1"]].concat()).success().stdout;
    for input in ["caf\u{e9} -1", "caf\u{e9} -1\n", "caf\u{e9} -1\r\n"] {
        assert_eq!(workspace.run_with(&arguments, input.as_bytes()).success().stdout, given, "{input:?}");
    }
    let other = workspace.run_with(&arguments, b"caf\xc3\xa9 -1\n\n").success().stdout;
    assert_ne!(other, given, "only the last line end is not part of the prompt");
    // As `train` reads a text.
    let windows = workspace.run_with(&arguments, b"\xef\xbb\xbfcaf\xc3\xa9 -1\r\n\r\n").success().stdout;
    assert_eq!(windows, other);
    workspace.run_with(&arguments, b"\xff\xfe broken").success();
    workspace.run_with(&arguments, b"").success();
    generate(&workspace, &["--prompt", "-1", "--max-tokens", "3"]).success();
    generate(&workspace, &["--prompt", "", "--max-tokens", "3"]).success();
}

#[test]
fn json_says_what_came_out_and_why_it_ended() {
    let workspace = workspace();
    let arguments = ["--prompt", "Hello you", "--max-tokens", "40", "--seed", "1", "--ignore-eos"];
    let plain = generate(&workspace, &arguments).success().stdout;
    let report = generate(&workspace, &[&arguments[..], &["--json"]].concat()).success().json();
    let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    let expected =
        ["completion_tokens", "finish_reason", "prompt_tokens", "seconds", "text", "tokens_per_second"];
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!(sorted, expected);
    assert_eq!(report["text"], plain);
    assert_eq!(report["completion_tokens"], 40);
    assert_eq!(report["finish_reason"], "length");
    let model = Model::open(workspace.path("text.shoe")).unwrap();
    let mut tokens = Vec::new();
    model.tokenizer().encode(b"Hello you", Special::Match, &mut tokens);
    assert_eq!(report["prompt_tokens"], tokens.len());
    let (seconds, rate) =
        (report["seconds"].as_f64().unwrap(), report["tokens_per_second"].as_f64().unwrap());
    assert!(seconds > 0.0 && (rate * seconds - 40.0).abs() < 1e-6);

    let nothing =
        generate(&workspace, &["--prompt", "Hello", "--max-tokens", "0", "--json"]).success().json();
    assert_eq!((nothing["text"].as_str(), nothing["completion_tokens"].as_u64()), (Some(""), Some(0)));
    assert_eq!(
        (nothing["finish_reason"].as_str(), nothing["tokens_per_second"].as_f64()),
        (Some("length"), Some(0.0))
    );
    assert_eq!(generate(&workspace, &["--prompt", "Hello", "--max-tokens", "0"]).success().stdout, "");
}

#[test]
fn the_end_of_a_text_stops_it_unless_ignored() {
    let workspace = workspace();
    // An untrained model ends a text about every 300 tokens.
    let run = |more: &[&str]| {
        let arguments = [
            "--prompt",
            "x",
            "--max-tokens",
            "5000",
            "--seed",
            "1",
            "--min-p",
            "0",
            "--top-p",
            "1",
            "--json",
        ];
        generate(&workspace, &[&arguments[..], more].concat()).success().json()
    };
    let stopped = run(&[]);
    assert_eq!(stopped["finish_reason"], "stop");
    let length = stopped["completion_tokens"].as_u64().unwrap();
    assert!(length < 5000);
    let full = run(&["--ignore-eos"]);
    assert_eq!(
        (full["finish_reason"].as_str(), full["completion_tokens"].as_u64()),
        (Some("length"), Some(5000))
    );
    let (short, long) = (stopped["text"].as_str().unwrap(), full["text"].as_str().unwrap());
    let short = short.trim_end_matches(char::REPLACEMENT_CHARACTER);
    assert!(long.starts_with(short) && long[short.len()..].contains("[EOS]"), "{short:?} {long:?}");
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let workspace = workspace();
    let arguments = ["--prompt", "x", "--max-tokens", "300", "--seed", "4", "--ignore-eos", "--json"];
    let text = generate(&workspace, &arguments).success().json()["text"].as_str().unwrap().to_owned();
    let middle: Vec<char> = text.chars().skip(60).take(3).collect();
    let stop: String = middle.into_iter().collect();
    let report =
        generate(&workspace, &[&arguments[..], &["--stop", "never to be found", "--stop", &stop]].concat());
    let report = report.success().json();
    assert_eq!(report["text"], text[..text.find(&stop).unwrap()]);
    assert_eq!(report["finish_reason"], "stop");
    let empty = generate(&workspace, &[&arguments[..], &["--stop", ""]].concat()).success().json();
    assert_eq!(empty["text"], text, "an empty stop string stops nothing");
}

#[test]
fn zero_temperature_is_deterministic_and_extremes_work() {
    let workspace = workspace();
    let run = |flags: &[&str]| {
        let arguments = ["--prompt", "Once", "--max-tokens", "40", "--ignore-eos"];
        generate(&workspace, &[&arguments[..], flags].concat()).success().stdout
    };
    let greedy = run(&["--temperature", "0"]);
    assert_eq!(run(&["--temperature", "0", "--seed", "7"]), greedy);
    assert_eq!(run(&["--temperature", "1e-40"]), greedy);
    assert_eq!(run(&["--temperature", "1e-30"]), greedy);
    assert_eq!(run(&["--top-k", "1", "--temperature", "2"]), greedy);
    assert_eq!(run(&["--top-p", "0", "--temperature", "0.1"]), greedy);
    assert_eq!(run(&["--min-p", "1", "--temperature", "0.1"]), greedy);
    for extreme in [
        ["--temperature", "100"],
        ["--repetition-penalty", "1e38"],
        ["--repetition-penalty", "1e-38"],
        ["--top-k", "1000000000"],
        ["--seed", "18446744073709551615"],
    ] {
        run(&extreme);
    }
}

#[test]
fn every_seed_writes_whole_characters() {
    let workspace = workspace();
    for seed in ["1", "2", "3", "4", "5"] {
        // `Finished` holds stdout to be UTF-8.
        let arguments = [
            "--prompt",
            "\u{1F600}",
            "--max-tokens",
            "400",
            "--ignore-eos",
            "--temperature",
            "2",
            "--seed",
            seed,
        ];
        generate(&workspace, &arguments).success();
    }
}

#[test]
fn a_reader_that_has_read_enough_is_no_error() {
    let workspace = workspace();
    let mut run = workspace.start(&[
        "generate",
        "--checkpoint",
        "text.shoe",
        "--prompt",
        "x",
        "--max-tokens",
        "100000000",
        "--ignore-eos",
    ]);
    let mut start = [0; 10];
    let mut stdout = run.stdout.take().unwrap();
    stdout.read_exact(&mut start).unwrap();
    drop(stdout);
    let finished = finish(run, b"").success();
    assert_eq!(finished.stderr, "");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let workspace = workspace();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command =
        workspace.command(&["generate", "--checkpoint", "text.shoe", "--prompt", "x", "--ignore-eos"]);
    let finished = Finished::from(command.stdout(full).output().unwrap());
    finished.failure(1, &["No space left"]);
}

#[test]
fn replies_are_on_stdout_and_nothing_else_is() {
    let workspace = workspace();
    let run = chat(&workspace, &["--max-response", "0"], b"Hello\n\n   \nHow are you?\r\n").success();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("\n\n", ""), "a line for each of two replies");
    let run = chat(&workspace, &["--max-response", "1"], b"Hello\nHow are you?").success();
    assert!(run.stdout.ends_with('\n') && run.stderr.is_empty());
    for leave in ["exit", "quit", "  exit  ", "quit\r"] {
        let input = format!("Hello\n{leave}\nstill there?\n");
        let run = chat(&workspace, &["--max-response", "0"], input.as_bytes()).success();
        assert_eq!(run.stdout, "\n", "{leave:?}");
    }
    assert_eq!(chat(&workspace, &[], b"").success().stdout, "");
}

#[test]
fn a_seed_repeats_a_conversation_and_line_ends_do_not_change_it() {
    let workspace = workspace();
    let run = |seed: &str, input: &[u8]| {
        chat(&workspace, &["--seed", seed, "--max-response", "20"], input).success().stdout
    };
    let first = run("1", b"Hello\nWhat of tea?\n");
    assert_eq!(run("1", b"Hello\nWhat of tea?\n"), first);
    assert_eq!(run("1", b"Hello\r\n\r\n  What of tea?  "), first);
    assert_ne!(run("2", b"Hello\nWhat of tea?\n"), first);
    assert_ne!(run("1", b"Hello\nWhat of coffee?\n"), first);
}

#[test]
fn what_a_user_types_is_never_a_special_token() {
    let workspace = workspace();
    let model = Model::open(workspace.path("dialogue.shoe")).unwrap();
    let read = |special| {
        let mut tokens = Vec::new();
        model.tokenizer().encode(b" a [EOS] b ", special, &mut tokens);
        tokens
    };
    assert_ne!(read(Special::AsText), read(Special::Match));
    // The program's first reply is that of a session which read the turn as the training text has it.
    let run = chat(&workspace, &["--max-response", "20", "--temperature", "0"], b"a [EOS] b\n").success();
    let mut session = model.session();
    let text = |text: &str| {
        let mut tokens = Vec::new();
        model.tokenizer().encode(text.as_bytes(), Special::AsText, &mut tokens);
        tokens
    };
    let turn =
        [vec![EOS], text("\n\n"), vec![0], read(Special::AsText), vec![EOS], text("\n"), vec![1]].concat();
    session.feed_tokens(&turn);
    let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() });
    let mut bytes = Vec::new();
    for _ in 0..20 {
        let token = session.next_token(&mut sampler);
        if token <= EOS {
            break;
        }
        bytes.extend_from_slice(model.tokenizer().token(token));
    }
    assert_eq!(run.stdout.trim(), String::from_utf8_lossy(&bytes).trim());
}

#[test]
fn bytes_that_are_no_text_are_read_all_the_same() {
    let workspace = workspace();
    let run =
        chat(&workspace, &["--max-response", "0"], b"\xff\xfe\n\x00\nnul\0nul\n\xf0\x9f\x98\n").success();
    assert_eq!(run.stdout, "\n\n\n\n");
    let long = [&b"x".repeat(100_000)[..], b"\n"].concat();
    chat(&workspace, &["--max-response", "1"], &long).success();
}

#[test]
fn a_model_of_plain_text_chats_too() {
    let workspace = workspace();
    let run = |input: &[u8]| {
        let arguments = ["chat", "--checkpoint", "text.shoe", "--seed", "1", "--max-response", "8"];
        workspace.run_with(&arguments, input).success()
    };
    let first = run(b"Hello\nagain\n");
    assert!(first.stderr.is_empty());
    assert_eq!(first.stdout, run(b"Hello\nagain\n").stdout);
}

#[test]
fn without_a_checkpoint_the_newest_is_used_and_named() {
    let workspace = workspace();
    workspace.train(&["--steps", "2", "--quiet"]).success();
    let arguments = ["generate", "--prompt", "Hello", "--seed", "1", "--max-tokens", "5"];
    let newest = workspace.run(&arguments).success();
    assert!(newest.stderr.contains("checkpoints/step-00000002.shoe"), "{}", newest.stderr);
    let named =
        workspace.run(&[&arguments[..], &["--checkpoint", "checkpoints/step-00000002.shoe"]].concat());
    assert_eq!(named.success().stdout, newest.stdout);
    assert_eq!(workspace.run(&[&arguments[..], &["--quiet"]].concat()).success().stderr, "");
}

#[test]
fn the_bundled_model_answers() {
    let workspace = Workspace::new();
    let chat = workspace.run_with(&["chat", "--seed", "1"], b"Hello! How are you?\n").success();
    assert!(chat.stdout.trim().len() > 2 && chat.stderr.is_empty(), "{chat:?}");
    let generated =
        workspace.run(&["generate", "--prompt", "[USER] Hello! [EOS]\n[BOT]", "--json", "--seed", "1"]);
    let report = generated.success().json();
    assert_eq!(report["finish_reason"], "stop");
    assert!(report["text"].as_str().unwrap().trim().len() > 2, "{report}");
}
