//! The reference holds what the model promises: its gradients are those of its loss, and its rules hold.

mod common;
#[path = "common/compare.rs"]
mod compare;
#[path = "common/fixture.rs"]
mod fixture;
#[path = "common/random.rs"]
mod random;

use compare::compare;
use fixture::Fixture;
use proptest::prelude::*;
use random::{Case, SplitMix64};
use shoestring::model::ModelConfig;
use shoestring::reference::{
    AdamW, AdamWState, Float, ReferenceError, Tensors, adamw_step, backward, decays, forward, global_norm,
    shapes, zero_states, zeros,
};

const DENSE: ModelConfig = ModelConfig {
    vocabulary: 5,
    embedding: 4,
    hidden: 4,
    layers: 2,
    experts: 3,
    top_k: 3,
    tied: false,
    eps_rmsnorm: 0.0078125,
};

/// One tiny model of each kind.
fn kinds() -> [(&'static str, ModelConfig); 8] {
    [
        ("dense", DENSE),
        ("tied", ModelConfig { tied: true, ..DENSE }),
        ("top-2", ModelConfig { top_k: 2, experts: 4, ..DENSE }),
        ("top-1", ModelConfig { top_k: 1, ..DENSE }),
        ("one expert", ModelConfig { experts: 1, top_k: 1, ..DENSE }),
        ("wider than its embedding", ModelConfig { embedding: 3, hidden: 5, layers: 2, ..DENSE }),
        ("narrower than its embedding", ModelConfig { embedding: 5, hidden: 2, top_k: 2, ..DENSE }),
        ("three layers, tied, top-1", ModelConfig { layers: 3, tied: true, top_k: 1, ..DENSE }),
    ]
}

#[test]
fn every_gradient_is_the_slope_of_the_loss() {
    for (kind, config) in kinds() {
        let mut case = Case::decided(config, 4, 2, 1);
        let gradients = backward(&case.parameters, &case.forward().unwrap()).unwrap();
        for (name, gradient) in &gradients {
            let slopes: Vec<f64> = (0..gradient.len()).map(|i| slope(&mut case, name, i)).collect();
            compare(name, &slopes, gradient, 1e-6).unwrap_or_else(|error| panic!("{kind}: {error}"));
        }
    }
}

/// The loss's slope along one value of a parameter, by finite differences of fourth order:
/// (8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / 12h.
fn slope(case: &mut Case, name: &str, i: usize) -> f64 {
    const STEP: f64 = 5e-5;
    let value = case.parameters[name][i];
    let chosen = |case: &Case| -> Vec<bool> {
        let forward = case.forward().unwrap();
        forward.steps.iter().flatten().flat_map(|step| step.active.clone()).collect()
    };
    let unmoved = chosen(case);
    let mut loss_at = |distance: f64| {
        case.parameters.get_mut(name).unwrap()[i] = value + distance;
        assert_eq!(chosen(case), unmoved, "{name}[{i}] is too close to another choice of experts");
        case.forward().unwrap().loss.unwrap()
    };
    let near = loss_at(STEP) - loss_at(-STEP);
    let far = loss_at(2.0 * STEP) - loss_at(-2.0 * STEP);
    loss_at(0.0);
    (8.0 * near - far) / (12.0 * STEP)
}

/// Any small model; its epsilon is large enough for finite differences even where a layer's sum is near 0.
fn any_config() -> impl Strategy<Value = ModelConfig> {
    let sizes = (1..9_usize, 1..6_usize, 1..6_usize, 1..4_usize, 1..6_usize, 0..5_usize);
    (sizes, any::<bool>(), 0.05..0.5_f32).prop_map(|(sizes, tied, eps_rmsnorm)| {
        let (vocabulary, embedding, hidden, layers, experts, fewer) = sizes;
        let top_k = experts - fewer.min(experts - 1);
        let embedding = if tied { hidden } else { embedding };
        ModelConfig { vocabulary, embedding, hidden, layers, experts, top_k, tied, eps_rmsnorm }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// As above for any small model, at one value of each tensor.
    #[test]
    fn sampled_gradients_are_slopes(config in any_config(), t in 1..6_usize, b in 1..4_usize, seed: u64) {
        let mut case = Case::random(config, t, b, seed);
        prop_assume!(case.is_decided());
        let gradients = backward(&case.parameters, &case.forward().unwrap()).unwrap();
        let mut random = SplitMix64(seed);
        for (name, gradient) in &gradients {
            let i = random.below(gradient.len()) as usize;
            let (slope, gradient) = (slope(&mut case, name, i), gradient[i]);
            let scale = gradient.abs().max(1e-2);
            let near = (slope - gradient).abs() <= 1e-6 * scale;
            prop_assert!(near, "{name}[{i}]: gradient {gradient:e}, slope {slope:e}");
        }
    }

    /// A sequence cut in two, the second part starting at the first's states, is the sequence.
    #[test]
    fn states_carry_everything(config in any_config(), t in 2..6_usize, b in 1..4_usize, seed: u64) {
        let case = Case::random(config, t, b, seed);
        let whole = case.forward().unwrap();
        let (first, second) = case.tokens.split_at((t / 2) * b);
        let first = forward(&config, &case.parameters, first, None, &case.states).unwrap();
        let second = forward(&config, &case.parameters, second, None, &first.states).unwrap();
        prop_assert_eq!([first.logits, second.logits].concat(), whole.logits);
        prop_assert_eq!(second.states, whole.states);
    }

    /// Streams of a batch don't see each other.
    #[test]
    fn streams_are_independent(config in any_config(), t in 1..5_usize, seed: u64) {
        let case = Case::random(config, t, 2, seed);
        let both = case.forward().unwrap();
        let of_second = |values: &[f64]| values[values.len() / 2..].to_vec();
        let tokens: Vec<u32> = case.tokens.iter().copied().skip(1).step_by(2).collect();
        let states: Vec<Vec<f64>> = case.states.iter().map(|state| of_second(state)).collect();
        let second = forward(&config, &case.parameters, &tokens, None, &states).unwrap();
        let logits = both.logits.chunks_exact(config.vocabulary).skip(1).step_by(2).flatten().copied();
        prop_assert_eq!(second.logits, logits.collect::<Vec<f64>>());
        let states: Vec<Vec<f64>> = both.states.iter().map(|state| of_second(state)).collect();
        prop_assert_eq!(second.states, states);
    }
}

#[test]
fn single_precision_agrees_with_double() {
    for fixture in Fixture::own() {
        let narrow = to_f32(&fixture.parameters);
        let states: Vec<Vec<f32>> = fixture.states_before.iter().map(|state| round(state)).collect();
        let Fixture { config, tokens, targets, .. } = &fixture;
        let forward = forward(config, &narrow, tokens, Some(targets), &states).unwrap();
        let agrees = |what: &str, actual: &[f32], expected: &[f64], relative| {
            compare(&format!("{}: {what}", fixture.name), actual, expected, relative).unwrap();
        };
        agrees("logits", &forward.logits, &fixture.logits, 1e-5);
        agrees("loss", &[forward.loss.unwrap()], &[fixture.loss], 1e-6);
        for (state, expected) in forward.states.iter().zip(&fixture.states_after) {
            agrees("states", state, expected, 1e-5);
        }
        for (name, gradient) in backward(&narrow, &forward).unwrap() {
            agrees(&name, &gradient, &fixture.gradients[&name], 2e-5);
        }
    }
}

#[test]
fn single_precision_steps_as_double() {
    for fixture in Fixture::own() {
        let (mut wide, mut narrow) = (fixture.parameters.clone(), to_f32(&fixture.parameters));
        let (mut wide_state, mut narrow_state) = (AdamWState::default(), AdamWState::default());
        for _ in 0..3 {
            let norm = adamw_step(&fixture.adamw, &mut wide_state, &mut wide, &fixture.gradients).unwrap();
            let gradients = to_f32(&fixture.gradients);
            let narrow_norm = adamw_step(&fixture.adamw, &mut narrow_state, &mut narrow, &gradients).unwrap();
            compare(&fixture.name, &[narrow_norm], &[norm], 1e-6).unwrap();
        }
        for (name, narrow) in &narrow {
            compare(&format!("{}: {name}", fixture.name), narrow, &wide[name], 1e-6).unwrap();
        }
    }
}

fn to_f32(tensors: &Tensors<f64>) -> Tensors<f32> {
    tensors.iter().map(|(name, values)| (name.clone(), round(values))).collect()
}

fn round(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| f32::from_f64(value)).collect()
}

#[test]
fn tied_scores_choose_the_lowest_ids() {
    for (top_k, expected) in [(1, [true, false, false, false]), (2, [true, true, false, false])] {
        let mut case = Case::random(ModelConfig { experts: 4, top_k, ..DENSE }, 3, 2, 5);
        for layer in 0..2 {
            case.parameters.get_mut(&format!("layers.{layer}.router.weight")).unwrap().fill(0.0);
            case.parameters.get_mut(&format!("layers.{layer}.router.bias")).unwrap().fill(0.25);
        }
        assert!(case.forward().unwrap().steps.iter().flatten().all(|step| step.active == expected));
        for layer in 0..2 {
            let bias = case.parameters.get_mut(&format!("layers.{layer}.router.bias")).unwrap();
            bias.copy_from_slice(&[-1.0, 0.5, 0.5, 0.5]);
        }
        let expected = [false, true, top_k == 2, false];
        assert!(case.forward().unwrap().steps.iter().flatten().all(|step| step.active == expected));
    }
}

#[test]
fn inactive_experts_hold_their_state_and_have_no_gate() {
    for top_k in [1, 2] {
        let config = ModelConfig { experts: 4, top_k, ..DENSE };
        let case = Case::decided(config, 4, 2, 7);
        for step in case.forward().unwrap().steps.iter().flatten() {
            assert_eq!(step.active.iter().filter(|active| **active).count(), top_k);
            for expert in 0..config.experts {
                let range = expert * config.hidden..(expert + 1) * config.hidden;
                let held = step.state[range.clone()] == step.state_before[range];
                assert_eq!(held, !step.active[expert]);
                assert_eq!(step.gates[expert] == 0.0, !step.active[expert]);
            }
        }
    }
}

#[test]
fn gates_sum_to_one_unless_one_of_several_experts_runs() {
    for (kind, config) in kinds() {
        let renormalised = config.top_k > 1 || config.experts == 1;
        for step in Case::random(config, 3, 2, 11).forward().unwrap().steps.iter().flatten() {
            let sum: f64 = step.gates.iter().sum();
            assert_eq!((sum - 1.0).abs() < 1e-12, renormalised, "{kind}: gates sum to {sum}");
        }
    }
}

#[test]
fn loss_of_a_model_that_knows_nothing_is_that_of_a_uniform_guess() {
    let (tokens, targets) = ([0, 1, 2, 3], [4, 3, 2, 1]);
    let forward =
        forward(&DENSE, &zeros::<f64>(&DENSE), &tokens, Some(&targets), &zero_states(&DENSE, 2)).unwrap();
    compare("loss", &[forward.loss.unwrap()], &[5_f64.ln()], 1e-15).unwrap();
}

#[test]
fn huge_logits_have_a_finite_loss() {
    let mut case = Case::random(DENSE, 3, 2, 13);
    case.parameters.get_mut("head.weight").unwrap().iter_mut().for_each(|weight| *weight *= 1e6);
    let forward = case.forward().unwrap();
    assert!(forward.loss.unwrap().is_finite() && forward.loss.unwrap() > 0.0);
    assert!(global_norm(&backward(&case.parameters, &forward).unwrap()).is_finite());
}

#[test]
fn decay_is_for_matrices() {
    let names = shapes(&ModelConfig { embedding: 3, layers: 1, ..DENSE });
    let decayed: Vec<&str> =
        names.iter().map(|(name, _)| name.as_str()).filter(|name| decays(name)).collect();
    let expected = [
        "embedding.weight",
        "layers.0.router.weight",
        "layers.0.update.weight",
        "layers.0.candidate.weight",
        "layers.0.recurrent.weight",
        "layers.0.residual.weight",
        "head.weight",
    ];
    assert_eq!(decayed, expected);
}

#[test]
fn first_step_is_worked_out_by_hand() {
    let settings =
        AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, eps: 0.5, weight_decay: 0.2, clip: 2.5 };
    let tensors = |weight: f64, bias: f64| {
        Tensors::from([("a.weight".to_string(), vec![weight]), ("a.bias".to_string(), vec![bias])])
    };
    let (mut parameters, mut state) = (tensors(1.0, 1.0), AdamWState::default());
    let norm = adamw_step(&settings, &mut state, &mut parameters, &tensors(3.0, -4.0)).unwrap();
    assert_eq!((norm, state.steps), (5.0, 1));
    // Clipped by half to 1.5 and -2; without bias the moments' ratio is g / (|g| + eps).
    let weight = 1.0 * (1.0 - 0.1 * 0.2) - 0.1 * 1.5 / (1.5 + 0.5);
    let bias = 1.0 + 0.1 * 2.0 / (2.0 + 0.5);
    compare("weight", &parameters["a.weight"], &[weight], 1e-7).unwrap();
    compare("bias", &parameters["a.bias"], &[bias], 1e-7).unwrap();
}

#[test]
fn input_that_does_not_fit_is_an_error() {
    let case = Case::random(DENSE, 3, 2, 17);
    let error = |change: fn(&mut Case)| {
        let mut case = case.clone();
        change(&mut case);
        case.forward().unwrap_err().to_string()
    };
    assert_eq!(error(|c| drop(c.parameters.remove("head.bias"))), "there is no tensor head.bias");
    let extra = |c: &mut Case| drop(c.parameters.insert("layers.2.norm.weight".to_string(), vec![]));
    assert_eq!(error(extra), "the model has no tensor layers.2.norm.weight");
    let long = |c: &mut Case| c.parameters.get_mut("head.bias").unwrap().push(0.0);
    assert_eq!(error(long), "head.bias holds 6 values instead of 5");
    let short = |c: &mut Case| c.states[1].truncate(23);
    assert_eq!(error(short), "the state of layer 1 holds 23 values instead of 24");
    assert_eq!(error(|c| c.states.clear()), "the list of states holds 0 values instead of 2");
    let part = "5 tokens are not a whole number of steps, one or more, of 2 streams";
    assert_eq!(error(|c| c.tokens.truncate(5)), part);
    assert_eq!(error(|c| c.tokens.clear()), part.replace('5', "0"));
    assert_eq!(error(|c| c.targets.clear()), "the list of targets holds 0 values instead of 6");
    assert_eq!(error(|c| c.tokens[3] = 5), "token 5 is outside the vocabulary of 5");
    assert_eq!(error(|c| c.targets[5] = 9), "token 9 is outside the vocabulary of 5");
    assert_eq!(error(|c| c.config.top_k = 4), "top-k is 4; it must lie between 1 and 3");

    let unscored = forward(&DENSE, &case.parameters, &case.tokens, None, &case.states).unwrap();
    assert_eq!(backward(&case.parameters, &unscored), Err(ReferenceError::NoTargets));
    let mut parameters = case.parameters.clone();
    let refused =
        adamw_step(&Fixture::own()[0].adamw, &mut AdamWState::default(), &mut parameters, &Tensors::new());
    assert_eq!(refused, Err(ReferenceError::MissingTensor("embedding.weight".to_string())));
    assert_eq!(parameters, case.parameters);
}
