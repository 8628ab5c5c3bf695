//! The comparison of computed numbers with expected ones.

/// Holds every element of `actual` to |actual - expected| <= `relative` * max(|actual|, |expected|, rms), rms
/// being the root mean square of all of `expected`: a sum's rounding error is relative to its terms, not to
/// what they cancel to. Where exactly zero is expected nothing else will do.
///
/// # Errors
/// The first element that is wrong or not finite, or the lengths if they differ.
pub fn compare<A: Copy + Into<f64>>(
    what: &str,
    actual: &[A],
    expected: &[f64],
    relative: f64,
) -> Result<(), String> {
    if actual.len() != expected.len() {
        return Err(format!("{what}: {} values instead of {}", actual.len(), expected.len()));
    }
    let squares: f64 = expected.iter().map(|value| value * value).sum();
    let rms = (squares / expected.len().max(1) as f64).sqrt();
    for (i, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let actual = actual.into();
        let difference = (actual - expected).abs();
        let scale = if expected == 0.0 { 0.0 } else { actual.abs().max(expected.abs()).max(rms) };
        let finite = actual.is_finite() && expected.is_finite();
        if !finite || difference > relative * scale {
            let place = format!("{what}[{i}]: {actual:e} instead of {expected:e}");
            return Err(format!("{place}, off by {difference:e} at a scale of {scale:e}"));
        }
    }
    Ok(())
}
