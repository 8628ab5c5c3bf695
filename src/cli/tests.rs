//! The definition of the command line, walked: what must hold of every subcommand and every flag there is.

use super::{command, config};
use clap::error::ErrorKind;
use clap::{Arg, Command};
use std::any::TypeId;
use std::collections::BTreeSet;

/// Subcommands that do something, with the words that call them.
fn leaves(command: &Command, words: &[String]) -> Vec<(Vec<String>, Command)> {
    let words = [words, &[command.get_name().to_owned()]].concat();
    let mut inner = command.get_subcommands().filter(|it| it.get_name() != "help").peekable();
    if inner.peek().is_none() {
        return vec![(words, command.clone())];
    }
    inner.flat_map(|it| leaves(it, &words)).collect()
}

fn built() -> Command {
    let mut definition = command();
    definition.build();
    definition
}

fn train() -> Command {
    built().find_subcommand("train").unwrap().clone()
}

/// The words of an example from the program's name on, up to what is the shell's.
fn words(line: &str) -> Option<Vec<String>> {
    let line = &line[line.find("shoestring ")?..];
    let (mut words, mut quoted) = (vec![String::new()], false);
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            '|' | '<' | '>' | ')' if !quoted => break,
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut()?.push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    Some(words)
}

#[test]
fn the_definition_is_sound() {
    command().debug_assert();
}

#[test]
fn every_subcommand_shows_two_examples_or_more_that_it_understands() {
    for (name, leaf) in leaves(&built(), &[]) {
        let help =
            leaf.get_after_long_help().unwrap_or_else(|| panic!("{name:?} has no examples")).to_string();
        let examples: Vec<Vec<String>> = help.lines().filter_map(words).collect();
        let own: Vec<_> = examples.iter().filter(|words| words.starts_with(&name)).collect();
        assert!(own.len() >= 2, "{name:?}: {help}");
        for words in examples {
            command().try_get_matches_from(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        }
    }
}

#[test]
fn help_explains_every_flag_and_is_shorter_when_asked_for_in_short() {
    for (name, mut leaf) in leaves(&built(), &[]) {
        for arg in leaf.get_arguments() {
            assert!(arg.get_help().is_some_and(|help| help.to_string().len() > 5), "{name:?}: {arg:?}");
        }
        let (short, long) = (leaf.render_help().to_string(), leaf.render_long_help().to_string());
        assert!(short.lines().count() < long.lines().count(), "{name:?}: {short}");
        assert!(!short.contains("Examples:") && short.contains("--help"), "{name:?}: {short}");
    }
}

#[test]
fn settings_of_sizes_and_recipes_are_shown_as_defaults() {
    let help = train().render_long_help().to_string();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected = [
        "small: 0.005, medium: 0.0045, large: 0.003",
        "classic: 0.001]",
        "[classic: 5]",
        "[default: 16, classic: 16]",
        "small: 850, ",
    ];
    assert!(expected.iter().all(|defaults| help.contains(defaults)), "{help}");
}

fn is_number(arg: &Arg) -> bool {
    let numbers = [
        TypeId::of::<usize>(),
        TypeId::of::<u32>(),
        TypeId::of::<u64>(),
        TypeId::of::<f32>(),
        TypeId::of::<f64>(),
    ];
    arg.get_action().takes_values() && numbers.iter().any(|id| arg.get_value_parser().type_id() == *id)
}

#[test]
fn wrong_numbers_are_refused_with_flag_value_and_range() {
    const WRONG: [&str; 8] =
        ["-1", "1e400", "-0.5", "nan", "NaN", "abc", "0x10", "99999999999999999999999999x"];
    let mut seen = BTreeSet::new();
    for (name, leaf) in leaves(&built(), &[]) {
        let numbers: Vec<&Arg> = leaf.get_arguments().filter(|arg| is_number(arg)).collect();
        for arg in numbers {
            let flag = format!("--{}", arg.get_long().expect("numbers are flags"));
            seen.insert(flag.clone());
            for value in WRONG {
                let error = leaf.clone().try_get_matches_from(["it", &flag, value]).unwrap_err();
                let message = error.to_string();
                let first = message.lines().next().unwrap();
                assert_eq!(error.kind(), ErrorKind::ValueValidation, "{name:?}: {message}");
                assert!(
                    first.contains(&format!("invalid value '{value}' for '{flag} <")),
                    "{name:?}: {message}"
                );
                let range = ["between ", "above ", "at least "].iter().any(|words| first.contains(words));
                assert!(range, "{name:?}: {message}");
            }
            let empty =
                leaf.clone().try_get_matches_from(["it", &format!("{flag}=")]).unwrap_err().to_string();
            assert!(empty.contains(&flag), "{name:?}: {empty}");
        }
    }
    let expected =
        ["--lr", "--epochs", "--minutes", "--seed", "--max-tokens", "--top-p", "--threads", "--max-loss"];
    assert!(expected.iter().all(|&flag| seen.contains(flag)), "{seen:?}");
}

/// A value that a flag takes, in TOML, and the arguments it stands for.
fn accepted(arg: &Arg) -> (String, Vec<String>) {
    let name = arg.get_long().unwrap();
    if !arg.get_action().takes_values() {
        return ("true".to_owned(), vec![format!("--{name}")]);
    }
    let names: Vec<String> =
        arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let takes = |value: &str| train().try_get_matches_from(["train", &format!("--{name}={value}")]).is_ok();
    let candidates = ["300", "9", "0.5", "2m", "file"].map(str::to_owned);
    let value = names.into_iter().chain(candidates).find(|value| takes(value));
    let value = value.unwrap_or_else(|| panic!("no value for --{name}"));
    let toml = if is_number(arg) { value.clone() } else { format!("\"{value}\"") };
    (toml, vec![format!("--{name}={value}")])
}

fn in_file(given: &[&str], toml: &str) -> Result<Vec<String>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    std::fs::write(&path, toml).unwrap();
    let given = train().try_get_matches_from([&["train"], given].concat()).unwrap();
    let arguments = config::arguments(&train(), &given, &path);
    let arguments =
        arguments.map_err(|error| error.to_string().replace(&folder.path().display().to_string(), "."))?;
    Ok(arguments.into_iter().map(|argument| argument.into_string().unwrap()).collect())
}

#[test]
fn every_flag_of_train_is_a_key() {
    let train = train();
    let (mut keys, mut others) = (0, BTreeSet::new());
    for arg in train.get_arguments() {
        if !config::is_key(arg) {
            others.insert(arg.get_long().unwrap());
            continue;
        }
        keys += 1;
        let name = arg.get_long().unwrap();
        let (value, arguments) = accepted(arg);
        assert_eq!(in_file(&[], &format!("{name} = {value}\n")), Ok(arguments.clone()), "{name}");
        // What is given wins.
        assert_eq!(in_file(&[&arguments[0]], &format!("{name} = {value}\n")), Ok(vec![]), "{name}");
        if arg.get_num_args().is_some_and(|number| number.max_values() > 1) {
            let expected = vec![format!("--{name}=a"), format!("--{name}=b c")];
            assert_eq!(in_file(&[], &format!("{name} = [\"a\", 'b c']")), Ok(expected));
        }
    }
    assert!(keys >= 30, "{keys}");
    assert_eq!(others, BTreeSet::from(["config", "help"]));
}

#[test]
fn what_inspect_writes_is_what_shapes_a_model() {
    /// Flags that change nothing about the model, and those that the flags written out make superfluous.
    const NOT_WRITTEN: [&str; 13] = [
        "bpe-data",
        "checkpoint",
        "checkpoint-dir",
        "save-every",
        "keep",
        "threads",
        "force",
        "no-chat",
        "kernel",
        "quiet",
        "size",
        "recipe",
        // Of a model that runs all its experts, which follows from their number.
        "top-k",
    ];
    let mut file = Vec::new();
    config::write(&mut file, &crate::bundled::model().unwrap()).unwrap();
    let file = String::from_utf8(file).unwrap();
    assert!(in_file(&[], &file).is_ok(), "{file}");
    let written: BTreeSet<&str> = file
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(" = ").next().unwrap())
        .collect();
    let length = ["epochs", "minutes", "steps"];
    assert_eq!(length.iter().filter(|&key| written.contains(key)).count(), 1, "{file}");
    for arg in train().get_arguments().filter(|arg| config::is_key(arg)) {
        let name = arg.get_long().unwrap();
        let told = written.contains(name) || length.contains(&name) || file.contains(name);
        assert!(told || NOT_WRITTEN.contains(&name), "--{name} is not in {file}");
    }
}

#[test]
fn mistakes_in_a_file_are_named_by_line_and_key() {
    let message = |toml: &str| in_file(&[], toml).unwrap_err();
    let cases = [
        ("lr = 0.1\n\nlrr = 2\n", "./run.toml:3: there is no key lrr; did you mean lr?"),
        ("batch_size = 2", "./run.toml:1: there is no key batch_size; did you mean batch-size?"),
        ("config = 'x'", "./run.toml:1: there is no key config; its keys are"),
        ("# hello\nlr = \"fast\"", "./run.toml:2: lr must be a number, not a string"),
        (
            "epochs = 1.5",
            "./run.toml:1: epochs must be a whole number in decimal, not a number with a fraction",
        ),
        ("epochs = 0x10", "./run.toml:1: epochs must be a whole number in decimal, not one in another base"),
        ("no-chat = 1", "./run.toml:1: no-chat must be true or false, not a whole number"),
        ("save-every = 30", "./run.toml:1: save-every must be a string, not a whole number"),
        ("lr = [1]", "./run.toml:1: lr must be a number, not an array"),
        ("model-data = [1]", "./run.toml:1: model-data must be a string, not a whole number"),
        ("model-data = \"\"", "./run.toml:1: model-data = \"\": it must not be empty"),
        ("[training]\nlr = 1", "./run.toml:1: there is no key training"),
        ("seed = 1\nlr = 101", "./run.toml:2: lr = 101: it must be a number between 0 and 100"),
        ("lr = nan", "./run.toml:1: lr = nan: it must be a number between 0 and 100"),
        ("grad-clip = inf", "./run.toml:1: grad-clip = inf: it must be a number above 0 and at most"),
        ("epochs = 0", "./run.toml:1: epochs = 0: it must be a whole number between 1 and 4294967295"),
        ("recipe = 'modern'", "./run.toml:1: recipe = 'modern': it must be one of default, classic"),
        ("steps = 3\nminutes = 1", "./run.toml:2: minutes can't be used with steps"),
        ("lr = 1\nlr = 2", "./run.toml:2: duplicate key"),
        ("lr = 1\nseed = ", "./run.toml:2: "),
        ("lr", "./run.toml:1: "),
    ];
    for (toml, expected) in cases {
        let message = message(toml);
        assert!(message.starts_with(expected) && message.lines().count() == 1, "{toml:?}: {message}");
    }
}

#[test]
fn a_length_on_the_command_line_takes_the_place_of_another_in_the_file() {
    assert_eq!(in_file(&["--steps", "3"], "minutes = 1\nseed = 4"), Ok(vec!["--seed=4".to_owned()]));
    assert_eq!(
        in_file(&[], "seed = 18446744073709551615"),
        Ok(vec!["--seed=18446744073709551615".to_owned()])
    );
    assert_eq!(in_file(&[], "no-chat = false\n"), Ok(vec![]));
    assert_eq!(in_file(&[], ""), Ok(vec![]));
}
