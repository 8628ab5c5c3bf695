//! Choosing the next token from the logits.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use shoestring_kernels::Kernels;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

/// How many of the latest tokens the repetition penalty looks at.
const REPETITION_WINDOW: usize = 64;

/// How the next token is drawn. Filters apply in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits of recent tokens are divided by this if positive, multiplied if negative; 1 is off
    /// (Keskar et al. 2019, CTRL, section 4.1).
    pub repetition_penalty: f32,
    /// Logits are divided by this; 0 always takes the likeliest token.
    pub temperature: f32,
    /// Only the `top_k` likeliest tokens; 0 is off.
    pub top_k: usize,
    /// Only tokens at least `min_p` times as likely as the likeliest; 0 is off.
    pub min_p: f32,
    /// Only the likeliest tokens that together have this probability; 1 is off
    /// (Holtzman et al. 2020).
    pub top_p: f32,
    /// Seed of the random stream.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { repetition_penalty: 1.0, temperature: 0.8, top_k: 0, min_p: 0.05, top_p: 0.95, seed: 0 }
    }
}

/// A random stream of tokens under some [`Sampling`]; reproducible from its seed.
#[derive(Clone)]
pub struct Sampler {
    sampling: Sampling,
    stream: Stream,
    penalised: Vec<f32>,        // [V] logits after the repetition penalty
    scaled: Vec<f32>,           // (logit - max) / temperature of each candidate
    weights: Vec<f32>,          // their exponentials
    candidates: Vec<Candidate>, // at most V
    nucleus: Vec<Candidate>,    // at most V
}

/// Where a [`Sampler`] is: in its random numbers, and in the tokens it has drawn lately.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    random: Pcg64Mcg,
    recent: VecDeque<u32>, // at most REPETITION_WINDOW
}

impl Stream {
    fn new(seed: u64) -> Self {
        let recent = VecDeque::with_capacity(REPETITION_WINDOW);
        Stream { random: Pcg64Mcg::seed_from_u64(seed), recent }
    }

    /// Begins the random numbers of `seed`.
    pub fn reseed(&mut self, seed: u64) {
        self.random = Pcg64Mcg::seed_from_u64(seed);
    }
}

#[derive(Clone, Copy, PartialEq)]
struct Candidate {
    weight: f32,
    token: u32,
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    /// The heavier first; of equal ones the lower id.
    fn cmp(&self, other: &Self) -> Ordering {
        self.weight.total_cmp(&other.weight).then(other.token.cmp(&self.token))
    }
}

impl Sampler {
    /// A stream that starts at the sampling's seed.
    pub fn new(sampling: Sampling) -> Self {
        Sampler {
            sampling,
            stream: Stream::new(sampling.seed),
            penalised: Vec::new(),
            scaled: Vec::new(),
            weights: Vec::new(),
            candidates: Vec::new(),
            nucleus: Vec::new(),
        }
    }

    /// How tokens are drawn.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// Draws as `sampling` says from here on. The random numbers go on; [`reseed`](Self::reseed) begins new ones.
    pub fn set_sampling(&mut self, sampling: Sampling) {
        self.sampling = Sampling { seed: self.sampling.seed, ..sampling };
    }

    /// Begins the random numbers of `seed`.
    pub fn reseed(&mut self, seed: u64) {
        self.sampling.seed = seed;
        self.stream.reseed(seed);
    }

    /// Where it is, to [go back to](Self::rewind).
    pub fn stream(&self) -> Stream {
        self.stream.clone()
    }

    /// Back to where it was: the same tokens come again.
    pub fn rewind(&mut self, stream: &Stream) {
        self.stream.clone_from(stream);
    }

    /// Back to the tokens drawn lately then. The random numbers go on: other tokens come.
    pub fn rewind_to_redraw(&mut self, stream: &Stream) {
        self.stream.recent.clone_from(&stream.recent);
    }

    /// The tokens drawn lately, in their order: as many as the repetition penalty looks at.
    pub fn recent(&self) -> impl DoubleEndedIterator<Item = u32> {
        self.stream.recent.iter().copied()
    }

    /// Forgets the tokens drawn lately. The random numbers go on.
    pub fn forget(&mut self) {
        self.stream.recent.clear();
    }

    /// The next token, drawn from `logits` `[V]`, V > 0.
    pub fn sample(&mut self, kernels: &Kernels, logits: &[f32]) -> u32 {
        let mut penalised = std::mem::take(&mut self.penalised);
        let token = if self.sampling.repetition_penalty == 1.0 {
            self.choose(kernels, logits)
        } else {
            penalised.clear();
            penalised.extend_from_slice(logits);
            self.penalise_repetition(&mut penalised);
            self.choose(kernels, &penalised)
        };
        self.penalised = penalised;
        let recent = &mut self.stream.recent;
        if recent.len() == REPETITION_WINDOW {
            recent.pop_front();
        }
        recent.push_back(token);
        token
    }

    fn choose(&mut self, kernels: &Kernels, logits: &[f32]) -> u32 {
        // A temperature whose inverse overflows is as good as 0.
        let scale = self.sampling.temperature.recip();
        if scale.is_finite() { self.draw(kernels, logits, scale) } else { likeliest(logits) }
    }

    fn penalise_repetition(&self, logits: &mut [f32]) {
        let penalty = self.sampling.repetition_penalty;
        let recent = &self.stream.recent;
        for (i, &token) in recent.iter().enumerate() {
            let first = !recent.iter().take(i).any(|&earlier| earlier == token);
            if first && let Some(logit) = logits.get_mut(token as usize) {
                let penalised = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
                // Infinities have no softmax.
                *logit = penalised.clamp(f32::MIN, f32::MAX);
            }
        }
    }

    /// A token at random; `scale` is the inverse of the temperature.
    fn draw(&mut self, kernels: &Kernels, logits: &[f32], scale: f32) -> u32 {
        self.find_candidates(kernels, logits, scale);
        self.keep_nucleus();
        let total: f32 = self.nucleus.iter().map(|candidate| candidate.weight).sum();
        let mut rest = self.stream.random.random::<f32>() * total;
        for candidate in &self.nucleus {
            rest -= candidate.weight;
            if rest < 0.0 {
                return candidate.token;
            }
        }
        // Rounding can leave a crumb past the last weight; so can logits that are not numbers.
        self.nucleus.last().map_or_else(|| likeliest(logits), |candidate| candidate.token)
    }

    /// Fills `candidates` with the tokens that pass min-p: few of many, so only theirs are the exponentials.
    fn find_candidates(&mut self, kernels: &Kernels, logits: &[f32], scale: f32) {
        /// Tokens that are looked at together.
        const BLOCK: usize = 16;
        let min_p = self.sampling.min_p;
        let max = largest(logits);
        // The likeliest token's weight is exp(0) = 1, so min-p is a plain threshold; below e^-104 nothing is left. A
        // little lower, so that rounding does not decide.
        let threshold = (min_p.ln() - 1e-3).max(-104.0);
        self.scaled.clear();
        self.candidates.clear();
        for (block, logits) in logits.chunks(BLOCK).enumerate() {
            let scaled = |logit: f32| (logit - max) * scale;
            if !logits.iter().fold(false, |any, &logit| any | (scaled(logit) >= threshold)) {
                continue;
            }
            for (i, &logit) in logits.iter().enumerate() {
                if scaled(logit) >= threshold {
                    self.scaled.push(scaled(logit));
                    self.candidates.push(Candidate { weight: 0.0, token: (block * BLOCK + i) as u32 });
                }
            }
        }
        self.weights.resize(self.scaled.len(), 0.0);
        kernels.exp(&mut self.weights, &self.scaled);
        for (candidate, &weight) in self.candidates.iter_mut().zip(&self.weights) {
            candidate.weight = weight;
        }
        self.candidates.retain(|candidate| candidate.weight >= min_p && candidate.weight > 0.0);
    }

    /// Fills `nucleus` with the candidates that pass top-k and top-p.
    fn keep_nucleus(&mut self) {
        let Sampling { top_k, top_p, .. } = self.sampling;
        self.nucleus.clear();
        if top_k == 0 && top_p >= 1.0 {
            self.nucleus.extend_from_slice(&self.candidates);
            return;
        }
        let weight =
            |candidates: &[Candidate]| candidates.iter().map(|candidate| candidate.weight).sum::<f32>();
        let all = weight(&self.candidates);
        // A heap yields the heaviest few without sorting the rest.
        let mut heap = BinaryHeap::from(std::mem::take(&mut self.candidates));
        let mut sum = 0.0;
        let mut is_last = |candidate: &Candidate, total: f32| {
            sum += candidate.weight;
            top_p < 1.0 && sum >= top_p * total
        };
        if top_k == 0 {
            while let Some(candidate) = heap.pop() {
                self.nucleus.push(candidate);
                if is_last(&candidate, all) {
                    break;
                }
            }
        } else {
            self.nucleus.extend(std::iter::from_fn(|| heap.pop()).take(top_k));
            let total = weight(&self.nucleus);
            let last = self.nucleus.iter().position(|candidate| is_last(candidate, total));
            self.nucleus.truncate(last.map_or(top_k, |last| last + 1));
        }
        self.candidates = heap.into_vec();
    }
}

/// The first of the largest logits.
fn likeliest(logits: &[f32]) -> u32 {
    let max = largest(logits);
    logits.iter().position(|&logit| logit == max).unwrap_or(0) as u32
}

/// The largest logit that is a number; negative infinity if there is none.
fn largest(logits: &[f32]) -> f32 {
    // Side by side, as a single comparison after the other would wait for the one before.
    const LANES: usize = 16;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (blocks, rest) = logits.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for (lane, &logit) in lanes.iter_mut().zip(block) {
            *lane = larger(*lane, logit);
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, larger)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(sampling: Sampling, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(sampling);
        let mut counts = vec![0; logits.len()];
        for _ in 0..draws {
            counts[sampler.sample(Kernels::best(), logits) as usize] += 1;
        }
        counts
    }

    const PLAIN: Sampling =
        Sampling { repetition_penalty: 1.0, temperature: 1.0, top_k: 0, min_p: 0.0, top_p: 1.0, seed: 7 };

    #[test]
    fn frequencies_follow_the_softmax() {
        let probabilities = [0.5f32, 0.3, 0.15, 0.05];
        let logits = probabilities.map(f32::ln);
        let counts = counts(PLAIN, &logits, 20_000);
        for (count, p) in counts.iter().zip(probabilities) {
            // Five standard deviations of a binomial.
            let deviation = 5.0 * (20_000.0 * p * (1.0 - p)).sqrt();
            assert!((*count as f32 - 20_000.0 * p).abs() < deviation, "{counts:?}");
        }
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
        let kept = |sampling| counts(sampling, &logits, 2_000).iter().map(|&c| c > 0).collect::<Vec<_>>();
        assert_eq!(kept(Sampling { top_k: 2, ..PLAIN }), [true, true, false, false]);
        assert_eq!(kept(Sampling { top_p: 0.79, ..PLAIN }), [true, true, false, false]);
        assert_eq!(kept(Sampling { top_p: 0.81, ..PLAIN }), [true, true, true, false]);
        assert_eq!(kept(Sampling { min_p: 0.25, ..PLAIN }), [true, true, true, false]);
        assert_eq!(kept(Sampling { temperature: 0.0, ..PLAIN }), [true, false, false, false]);
        // Each of what the one before it left: 0.5 of 0.8 is more than 0.6, and 0.8 of 0.95 more than 0.83.
        assert_eq!(kept(Sampling { top_k: 2, top_p: 0.6, ..PLAIN }), [true, false, false, false]);
        assert_eq!(kept(Sampling { top_k: 3, top_p: 0.83, ..PLAIN }), [true, true, false, false]);
        assert_eq!(kept(Sampling { min_p: 0.25, top_p: 0.83, ..PLAIN }), [true, true, false, false]);
        assert_eq!(kept(Sampling { top_k: 4, top_p: 0.83, ..PLAIN }), [true, true, true, false]);
    }

    #[test]
    fn a_penalty_keeps_a_token_from_coming_back() {
        let sampling = Sampling { temperature: 0.0, repetition_penalty: 2.0, ..PLAIN };
        let mut sampler = Sampler::new(sampling);
        let drawn: Vec<u32> = (0..3).map(|_| sampler.sample(Kernels::best(), &[3.0, 2.0, 1.6])).collect();
        assert_eq!(drawn, [0, 1, 2]);
    }

    #[test]
    fn extreme_settings_follow_the_logits() {
        let logits = [1.0, 3.0, -2.0];
        let first = |sampling| Sampler::new(sampling).sample(Kernels::best(), &logits);
        assert_eq!(first(Sampling { temperature: f32::from_bits(1), ..PLAIN }), 1);
        assert_eq!(first(Sampling { temperature: 1e-30, ..PLAIN }), 1);
        // The first token drawn becomes much likelier than any other.
        let tiny = Sampling { temperature: 0.5, repetition_penalty: 1e-40, ..PLAIN };
        let mut sampler = Sampler::new(tiny);
        let drawn: Vec<u32> = (0..4).map(|_| sampler.sample(Kernels::best(), &[2.0, 3.0, 2.5])).collect();
        assert!(drawn.iter().all(|&token| token == drawn[0]), "{drawn:?}");
    }

    proptest! {
        #[test]
        fn any_logits_give_a_token_of_the_vocabulary(
            logits in prop::collection::vec(prop::num::f32::ANY, 1..40),
            temperature in 0f32..3.0, top_k in 0usize..50, top_p in 0f32..=1.0, min_p in 0f32..=1.0, seed: u64,
        ) {
            let sampling = Sampling { repetition_penalty: 1.1, temperature, top_k, min_p, top_p, seed };
            let mut sampler = Sampler::new(sampling);
            for _ in 0..5 {
                prop_assert!((sampler.sample(Kernels::best(), &logits) as usize) < logits.len());
            }
        }
    }
}
