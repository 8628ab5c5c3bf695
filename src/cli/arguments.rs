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
    #[arg(long, value_name = "N", default_value_t = Sampling::default().top_k)]
    top_k: usize,
    /// Choose among the likeliest tokens that together have probability P; 1 is off
    #[arg(long, value_name = "P", default_value_t = Sampling::default().top_p, value_parser = float::<0, 1>)]
    top_p: f32,
    /// Choose among tokens at least P times as likely as the likeliest; 0 is off
    #[arg(long, value_name = "P", default_value_t = Sampling::default().min_p, value_parser = float::<0, 1>)]
    min_p: f32,
    /// Make tokens of the last 64 less likely by this factor; 1 is off
    #[arg(long, value_name = "X", default_value_t = Sampling::default().repetition_penalty, value_parser = positive)]
    repetition_penalty: f32,
    /// Seed of the random choices; by default a new one each time
    #[arg(long, value_name = "N")]
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

/// A number from LOW to HIGH.
pub fn float<const LOW: i32, const HIGH: i32>(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (LOW as f32..=HIGH as f32).contains(&value) {
        Ok(value)
    } else {
        Err(format!("it must lie between {LOW} and {HIGH}"))
    }
}

/// A number above 0, and finite.
pub fn positive(text: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    if value > 0.0 && value.is_finite() { Ok(value) } else { Err("it must be a number above 0".to_owned()) }
}

/// A probability that is not certain.
pub fn below_one(text: &str) -> Result<f32, String> {
    let value = float::<0, 1>(text)?;
    if value < 1.0 { Ok(value) } else { Err("it must be at least 0 and below 1".to_owned()) }
}

/// Minutes: above 0, up to a year.
pub fn minutes(text: &str) -> Result<f64, String> {
    const YEAR: f64 = 366.0 * 24.0 * 60.0;
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if value > 0.0 && value <= YEAR {
        Ok(value)
    } else {
        Err("it must be above 0 and at most a year".to_owned())
    }
}

/// A duration such as `0.2s`, `90s`, `5m` or `1h`.
pub fn duration(text: &str) -> Result<Duration, String> {
    const HINT: &str = "write a duration such as 0.2s, 90s, 5m or 1h";
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let scale = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(HINT.to_owned()),
    };
    let value: f64 = number.parse().map_err(|_| HINT.to_owned())?;
    if !(0.0..=1e9).contains(&value) {
        return Err(HINT.to_owned());
    }
    Ok(Duration::from_secs_f64(value * scale))
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
        assert!(positive("0").is_err() && positive("inf").is_err() && positive("1e-3").is_ok());
        assert!(below_one("1").is_err() && below_one("0").is_ok());
        assert!(minutes("0").is_err() && minutes("inf").is_err() && minutes("0.5").is_ok());
    }
}
