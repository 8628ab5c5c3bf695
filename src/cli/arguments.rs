//! Flags that several subcommands share, and checks of their values.

use crate::sample::Sampling;
use clap::Args;
use std::time::Duration;

/// How the next token is drawn.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// How freely to choose: 0 always takes the likeliest token, 1 follows the model's probabilities
    /// [default: 0.5 in a chat, else 0.8]
    #[arg(long, value_name = "X", value_parser = float::<0, 100>)]
    temperature: Option<f32>,
    /// Choose among the N likeliest tokens only; 0 is off
    #[arg(long, value_name = "N", default_value_t = Sampling::default().top_k, value_parser = tokens)]
    top_k: usize,
    /// Choose among the likeliest tokens that together have probability P; 1 is off
    #[arg(long, value_name = "P", default_value_t = Sampling::default().top_p, value_parser = float::<0, 1>)]
    top_p: f32,
    /// Choose among tokens at least P times as likely as the likeliest; 0 is off
    #[arg(long, value_name = "P", default_value_t = Sampling::default().min_p, value_parser = float::<0, 1>)]
    min_p: f32,
    /// Make tokens among the last 64 written less likely by this factor; 1 is off
    #[arg(long, value_name = "X", default_value_t = Sampling::default().repetition_penalty, value_parser = positive)]
    repetition_penalty: f32,
    /// Seed of the random choices; by default a new one each time
    #[arg(long, value_name = "N", value_parser = seed)]
    seed: Option<u64>,
}

impl SamplingArgs {
    /// The settings these flags ask for, at `temperature` where they name none.
    pub fn sampling(&self, temperature: f32) -> Sampling {
        Sampling {
            repetition_penalty: self.repetition_penalty,
            temperature: self.temperature.unwrap_or(temperature),
            top_k: self.top_k,
            min_p: self.min_p,
            top_p: self.top_p,
            seed: self.seed.unwrap_or_else(rand::random),
        }
    }
}

/// A whole number from LOW to HIGH.
pub fn whole<T: TryFrom<u64>, const LOW: u64, const HIGH: u64>(text: &str) -> Result<T, String> {
    let value = text.parse().ok().filter(|value| (LOW..=HIGH).contains(value));
    let value = value.and_then(|value| T::try_from(value).ok());
    value.ok_or_else(|| format!("it must be a whole number between {LOW} and {HIGH}"))
}

/// A number of tokens, or none.
pub fn tokens(text: &str) -> Result<usize, String> {
    whole::<usize, 0, 1_000_000_000>(text)
}

/// A seed of random choices.
pub fn seed(text: &str) -> Result<u64, String> {
    whole::<u64, 0, { u64::MAX }>(text)
}

/// A number from LOW to HIGH.
pub fn float<const LOW: i32, const HIGH: i32>(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value| (LOW as f32..=HIGH as f32).contains(value));
    value.ok_or_else(|| format!("it must be a number between {LOW} and {HIGH}"))
}

/// A number above 0, and finite.
pub fn positive(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value: &f32| *value > 0.0 && value.is_finite());
    value.ok_or_else(|| format!("it must be a number above 0 and at most {:e}", f32::MAX))
}

/// A probability that is not certain.
pub fn below_one(text: &str) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value: &f32| (0.0..1.0).contains(value));
    value.ok_or_else(|| "it must be a number of at least 0 and below 1".to_owned())
}

const MINUTES_OF_A_YEAR: f64 = 366.0 * 24.0 * 60.0;

/// Minutes: above 0, up to a year.
pub fn minutes(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value| *value > 0.0 && *value <= MINUTES_OF_A_YEAR);
    value.ok_or_else(|| format!("it must be a number above 0 and at most {MINUTES_OF_A_YEAR}, a year"))
}

/// A duration such as `0.2s`, `90s`, `5m` or `1h`, up to a year.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let scale = match unit {
        "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    };
    let seconds = scale.and_then(|scale| Some(scale * number.parse::<f64>().ok()?));
    let seconds = seconds.filter(|seconds| (0.0..=60.0 * MINUTES_OF_A_YEAR).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "it must be a duration between 0s and a year, such as 0.2s, 90s, 5m or 1h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("0.2s"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for wrong in ["", "5", "m", "-1s", "1d", "1\u{e9}", "NaNs", "infs", "1e30s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        assert!(
            float::<0, 1>("1").is_ok() && float::<0, 1>("1.01").is_err() && float::<0, 1>("NaN").is_err()
        );
        assert!(whole::<u32, 1, 9>("10").is_err() && whole::<u32, 1, 9>("9") == Ok(9));
        assert!(whole::<u8, 0, 999>("256").is_err() && seed("-1").is_err() && seed("1.0").is_err());
        assert!(positive("0").is_err() && positive("inf").is_err() && positive("1e-3").is_ok());
        assert!(below_one("1").is_err() && below_one("0").is_ok());
        assert!(minutes("0").is_err() && minutes("inf").is_err() && minutes("0.5").is_ok());
    }
}
