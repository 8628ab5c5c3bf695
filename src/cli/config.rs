//! `train --config FILE`: a TOML file whose keys are the flags of `train`.
//!
//! There is no list of keys. A key is looked up among the flags that clap knows, its value is checked by that
//! flag's own parser, and what the command line does not say itself is added to it as if it had been typed.

use super::UsageError;
use crate::checkpoint::{Checkpoint, CheckpointError, Recipe, RunLength};
use crate::files::read_text;
use crate::model::ModelConfig;
use crate::train::{Size, classic_recipe, default_recipe};
use anyhow::{Context, Result};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use serde_json::Value;
use std::any::TypeId;
use std::error::Error as _;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Bytes of a file.
const LONGEST: u64 = 1_000_000;
/// The flag that names the file, and those that are not settings.
const NO_KEYS: [&str; 3] = ["config", "help", "version"];

/// The arguments that `path` stands for beside those in `given`: each value that no flag or environment variable
/// gives. `train` is the built definition of the subcommand.
///
/// # Errors
/// A [`UsageError`] that names file, line and key, if a key is no flag, or its value is not one the flag takes.
pub fn arguments(train: &Command, given: &ArgMatches, path: &Path) -> Result<Vec<OsString>> {
    let text = read_text(path, LONGEST).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(arguments_in(train, given, &text).map_err(|Mistake { at, what }| {
        let line = text.as_bytes()[..at.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1;
        UsageError(format!("{}:{line}: {what}", path.display()))
    })?)
}

/// Whether `arg` can be set in a file, by its name.
pub fn is_key(arg: &Arg) -> bool {
    arg.get_long().is_some_and(|name| !NO_KEYS.contains(&name))
}

/// What is wrong at a byte of the file.
struct Mistake {
    at: usize,
    what: String,
}

fn arguments_in(train: &Command, given: &ArgMatches, text: &str) -> Result<Vec<OsString>, Mistake> {
    let table = DeTable::parse(text).map_err(|error| Mistake {
        at: error.span().map_or(0, |span| span.start),
        what: error.message().replace('\n', "; "),
    })?;
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut arguments = Vec::new();
    let mut seen: Vec<&Arg> = Vec::new();
    for (key, value) in &entries {
        let name = key.get_ref();
        let mistake = |what| Mistake { at: key.span().start, what };
        let arg = train
            .get_arguments()
            .find(|arg| is_key(arg) && arg.get_long() == Some(name))
            .ok_or_else(|| mistake(unknown(train, name)))?;
        let values = values(arg, value).map_err(|what| mistake(format!("{name} {what}")))?;
        let flags: Vec<OsString> = values.iter().map(|value| flag(name, value.as_deref())).collect();
        // Each by itself, so that an error is this key's.
        if let Err(error) = train.clone().no_binary_name(true).try_get_matches_from(&flags) {
            return Err(mistake(format!("{name} = {}: {}", shown(value, text), reason(&error))));
        }
        if let Some(other) = seen.iter().find(|other| excludes(train, arg, other)) {
            let other = other.get_long().unwrap_or_default();
            return Err(mistake(format!("{name} can't be used with {other}; leave one of them out")));
        }
        seen.push(arg);
        let is_overridden = train.get_arguments().any(|other| {
            let same = other.get_id() == arg.get_id() || excludes(train, arg, other);
            let source = given
                .try_contains_id(other.get_id().as_str())
                .ok()
                .and_then(|_| given.value_source(other.get_id().as_str()));
            same && matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
        });
        if !is_overridden {
            arguments.extend(flags);
        }
    }
    for (flag, decides) in [("size", widths()), ("recipe", rates())] {
        let is_seen = |key: &&str| seen.iter().any(|arg| arg.get_long() == Some(key));
        let is_length_seen = ["epochs", "minutes", "steps"].iter().any(is_seen);
        let is_decided = decides.iter().all(is_seen) && (flag == "size" || is_length_seen);
        if given.value_source(flag) == Some(ValueSource::CommandLine) && is_decided {
            let decided = entries.iter().find(|(key, _)| decides.contains(&&**key.get_ref()));
            let at = decided.map_or(0, |(key, _)| key.span().start);
            let keys = decides.join(", ");
            let what = format!(
                "{keys} stand here, so --{flag} would change nothing; leave it out, or take them out"
            );
            return Err(Mistake { at, what });
        }
    }
    Ok(arguments)
}

/// The keys in which models of two sizes differ. (The experts that run are all by default.)
fn widths() -> Vec<&'static str> {
    let mut keys = differing(&Size::ALL.map(|size| of_model(&size.config())));
    keys.retain(|key| *key != "top-k");
    keys
}

/// The keys in which two recipes differ, but for their names and lengths.
fn rates() -> Vec<&'static str> {
    differing(&[default_recipe(), classic_recipe()].map(|recipe| of_recipe(&recipe).split_off(2)))
}

fn differing(all: &[Vec<(&'static str, String)>]) -> Vec<&'static str> {
    let [first, rest @ ..] = all else { return Vec::new() };
    let differs = |at: usize| rest.iter().any(|other| other[at].1 != first[at].1);
    first.iter().enumerate().filter(|(at, _)| differs(*at)).map(|(_, (key, _))| *key).collect()
}

/// What `value` says to `arg`, one item for each time the flag is given; a switch is given without a value.
fn values(arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<Option<String>>, String> {
    let scalar = |value: &DeValue<'_>| -> Result<String, String> {
        let parser = arg.get_value_parser().type_id();
        let is_whole =
            [TypeId::of::<usize>(), TypeId::of::<u32>(), TypeId::of::<u64>()].iter().any(|id| parser == *id);
        let is_float = [TypeId::of::<f32>(), TypeId::of::<f64>()].iter().any(|id| parser == *id);
        match value {
            DeValue::Integer(integer) if (is_whole || is_float) && integer.radix() == 10 => {
                Ok(integer.as_str().to_owned())
            }
            DeValue::Float(float) if is_float => Ok(float.as_str().to_owned()),
            DeValue::String(text) if !is_whole && !is_float => Ok(text.clone().into_owned()),
            other => {
                let expected = match (is_whole, is_float) {
                    (true, _) => "a whole number in decimal",
                    (_, true) => "a number",
                    _ => "a string",
                };
                Err(format!("must be {expected}, not {}", kind(other)))
            }
        }
    };
    if !arg.get_action().takes_values() {
        return match value.get_ref() {
            DeValue::Boolean(true) => Ok(vec![None]),
            DeValue::Boolean(false) => Ok(Vec::new()),
            other => Err(format!("must be true or false, not {}", kind(other))),
        };
    }
    match value.get_ref() {
        DeValue::Array(items) if items.is_empty() => Err("must not be an empty array".to_owned()),
        DeValue::Array(items) if arg.get_num_args().is_some_and(|number| number.max_values() > 1) => {
            items.iter().map(|item| scalar(item.get_ref()).map(Some)).collect()
        }
        one => Ok(vec![Some(scalar(one)?)]),
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(integer) if integer.radix() != 10 => "one in another base",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

fn flag(name: &str, value: Option<&str>) -> OsString {
    match value {
        Some(value) => format!("--{name}={value}").into(),
        None => format!("--{name}").into(),
    }
}

/// Whether clap refuses the two together.
fn excludes(train: &Command, one: &Arg, other: &Arg) -> bool {
    let in_one_group = train.get_groups().any(|group| {
        let has = |arg: &Arg| group.get_args().any(|id| id == arg.get_id());
        !group.clone().is_multiple() && has(one) && has(other)
    });
    let conflict =
        |one, other: &Arg| train.get_arg_conflicts_with(one).iter().any(|arg| arg.get_id() == other.get_id());
    one.get_id() != other.get_id() && (in_one_group || conflict(one, other) || conflict(other, one))
}

fn unknown(train: &Command, name: &str) -> String {
    let matches = train.clone().no_binary_name(true).try_get_matches_from([flag(name, None)]);
    let suggestion = matches.err().and_then(|error| match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(flag)) => Some(flag.trim_start_matches('-').to_owned()),
        _ => None,
    });
    // Not a flag's second name, which is none of a key.
    let suggestion =
        suggestion.filter(|key| train.get_arguments().any(|arg| is_key(arg) && arg.get_long() == Some(key)));
    let hint = suggestion.map_or_else(
        || "its keys are the flags of `shoestring train --help`, without the dashes before them".to_owned(),
        |key| format!("did you mean {key}?"),
    );
    format!("there is no key {name}; {hint}")
}

/// What clap has against a value.
fn reason(error: &clap::Error) -> String {
    match (error.kind(), error.source(), error.get(ContextKind::ValidValue)) {
        (_, Some(source), _) => source.to_string(),
        (ErrorKind::InvalidValue, _, Some(ContextValue::Strings(names))) if !names.is_empty() => {
            format!("it must be one of {}", names.join(", "))
        }
        (ErrorKind::InvalidValue, ..) => "it must not be empty".to_owned(),
        _ => error.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}

/// The value as it stands in the file, up to the end of its first line.
fn shown<'a>(value: &Spanned<DeValue<'_>>, text: &'a str) -> &'a str {
    text.get(value.span()).and_then(|text| text.lines().next()).unwrap_or_default()
}

/// Writes what `checkpoint` was trained with as such a file.
pub fn write(out: &mut dyn Write, checkpoint: &Checkpoint) -> Result<()> {
    let training = match checkpoint.training() {
        Err(CheckpointError::NoTrainingState { .. }) => None,
        training => Some(training?),
    };
    let record = checkpoint.record();
    let path = quoted(&checkpoint.path().to_string_lossy());
    writeln!(out, "# {path}, for `shoestring train --config`.")?;
    let mut settings = of_model(&checkpoint.config());
    if checkpoint.config().top_k == checkpoint.config().experts {
        // All run by default, however many another file or a flag asks for.
        settings.retain(|(key, _)| *key != "top-k");
    }
    match &record.recipe {
        Some(recipe) => settings.extend(of_recipe(recipe)),
        None => writeln!(out, "# It was imported: how it was trained is not known.")?,
    }
    for (key, value) in settings {
        writeln!(out, "{key} = {value}")?;
    }
    let Some(training) = training else {
        writeln!(
            out,
            "# Only numbered checkpoints tell where their texts lie: model-data, validation-data."
        )?;
        return Ok(());
    };
    for (key, files) in
        [("model-data", training.model_data()), ("validation-data", training.validation_data())]
    {
        let files: Vec<String> = files.iter().map(|file| quoted(&file.to_string_lossy())).collect();
        if !files.is_empty() {
            writeln!(out, "{key} = [{}]", files.join(", "))?;
        }
    }
    Ok(())
}

/// The sizes of a model by the names of their flags, as values of TOML.
pub fn of_model(config: &ModelConfig) -> Vec<(&'static str, String)> {
    let ModelConfig { vocabulary, embedding, hidden, layers, experts, top_k, tied, eps_rmsnorm } = config;
    vec![
        ("bpe-vocab-size", vocabulary.to_string()),
        ("embedding-dim", embedding.to_string()),
        ("gru-hidden-size", hidden.to_string()),
        ("gru-layers", layers.to_string()),
        ("num-experts", experts.to_string()),
        ("top-k", top_k.to_string()),
        ("tied", tied.to_string()),
        ("eps-rmsnorm", format!("{eps_rmsnorm:?}")),
    ]
}

/// The settings of a recipe, likewise.
pub fn of_recipe(recipe: &Recipe) -> Vec<(&'static str, String)> {
    let Recipe { name, batch_size, seq_length, lr, warmup_steps, final_lr, beta1, beta2, .. } = recipe;
    let Recipe { eps_adamw, wd, grad_clip, dropout, length, seed, .. } = recipe;
    let origin = if Size::named(name).is_some() { "size" } else { "recipe" };
    let length = match length {
        RunLength::Epochs(epochs) => ("epochs", epochs.to_string()),
        RunLength::Minutes(minutes) => ("minutes", format!("{minutes:?}")),
        RunLength::Steps(steps) => ("steps", steps.to_string()),
    };
    vec![
        (origin, quoted(name)),
        length,
        ("batch-size", batch_size.to_string()),
        ("seq-length", seq_length.to_string()),
        ("lr", format!("{lr:?}")),
        ("warmup-steps", warmup_steps.to_string()),
        ("final-lr", format!("{final_lr:?}")),
        ("wd", format!("{wd:?}")),
        ("grad-clip", format!("{grad_clip:?}")),
        ("dropout", format!("{dropout:?}")),
        ("beta1", format!("{beta1:?}")),
        ("beta2", format!("{beta2:?}")),
        ("eps-adamw", format!("{eps_adamw:?}")),
        ("seed", seed.to_string()),
    ]
}

/// The definition of `train`, with the defaults of each size and recipe in the help of their flags.
pub fn with_defaults(train: Command) -> Command {
    let of_size = |size: Size| [of_model(&size.config()), of_recipe(&size.recipe(false))].concat();
    let (sizes, classic) = (Size::ALL.map(of_size), of_recipe(&classic_recipe()));
    train.mut_args(|arg| {
        let name = arg.get_long().unwrap_or_default();
        let value = |settings: &[(&str, String)]| {
            let (_, value) = settings.iter().find(|(key, _)| *key == name)?;
            Some(value.clone())
        };
        if [Some("top-k"), Some("size"), Some("recipe")].contains(&Some(name))
            || !arg.get_action().takes_values()
        {
            return arg;
        }
        let of_sizes: Vec<String> = sizes.iter().filter_map(|settings| value(settings)).collect();
        let mut defaults = match &of_sizes[..] {
            [first, rest @ ..] if rest.iter().all(|value| value == first) => {
                vec![format!("default: {first}")]
            }
            values => Size::ALL
                .iter()
                .zip(values)
                .map(|(size, value)| format!("{}: {value}", size.name()))
                .collect(),
        };
        defaults.extend(value(&classic).map(|value| format!("classic: {value}")));
        let (Some(help), false) = (arg.get_help(), defaults.is_empty()) else { return arg };
        let help = format!("{help} [{}]", defaults.join(", "));
        let long_help = arg.get_long_help().map(ToString::to_string);
        let arg = arg.help(&help);
        match long_help.as_deref().and_then(|text| text.split_once("\n\n")) {
            Some((_, more)) => arg.long_help(format!("{help}\n\n{more}")),
            None => arg,
        }
    })
}

/// A string of TOML: one of JSON, but that TOML escapes one more character.
fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
