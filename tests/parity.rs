//! The reference agrees with PyTorch's autograd and AdamW, in float64.

mod common;
#[path = "common/compare.rs"]
mod compare;
#[path = "common/fixture.rs"]
mod fixture;

use compare::compare;
use fixture::Fixture;
use shoestring::reference::{
    AdamWState, Forward, Tensors, adamw_step, backward, forward, global_norm, shapes,
};

/// Far below what a mistake in a formula costs, above rounding: f64's, and that of an RMSNorm epsilon such as
/// 1e-5 to the configuration's f32, which alone costs about 1e-11.
const RELATIVE: f64 = 1e-9;

#[test]
fn own_vectors_agree() {
    Fixture::own().iter().for_each(agrees);
}

#[test]
fn shared_fixtures_agree() {
    Fixture::shared().unwrap_or_default().iter().for_each(agrees);
}

fn agrees(fixture: &Fixture) {
    let checks = [tensor_list, forward_pass, gradients, optimizer_steps];
    for check in checks {
        check(fixture).unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
    }
}

fn tensor_list(fixture: &Fixture) -> Result<(), String> {
    let (ours, theirs) = (shapes(&fixture.config), &fixture.shapes);
    if ours.len() != theirs.len() || ours.iter().any(|(name, shape)| theirs.get(name) != Some(shape)) {
        return Err(format!("tensors {ours:?} instead of {theirs:?}"));
    }
    Ok(())
}

fn forward_pass(fixture: &Fixture) -> Result<(), String> {
    let forward = run(fixture, &fixture.parameters);
    compare("logits", &forward.logits, &fixture.logits, RELATIVE)?;
    compare("loss", &[forward.loss.unwrap()], &[fixture.loss], RELATIVE)?;
    if forward.states.len() != fixture.states_after.len() {
        return Err(format!("{} layers of states", forward.states.len()));
    }
    let mut states = forward.states.iter().zip(&fixture.states_after).enumerate();
    states.try_for_each(|(layer, (ours, theirs))| compare(&format!("states {layer}"), ours, theirs, RELATIVE))
}

fn gradients(fixture: &Fixture) -> Result<(), String> {
    let gradients = backward(&fixture.parameters, &run(fixture, &fixture.parameters)).unwrap();
    compare("gradient norm", &[global_norm(&gradients)], &[fixture.gradient_norm], RELATIVE)?;
    compare_tensors("gradient of ", &gradients, &fixture.gradients)
}

fn optimizer_steps(fixture: &Fixture) -> Result<(), String> {
    let mut parameters = fixture.parameters.clone();
    let mut state = AdamWState::default();
    for _ in 0..3 {
        let gradients = backward(&parameters, &run(fixture, &parameters)).unwrap();
        adamw_step(&fixture.adamw, &mut state, &mut parameters, &gradients).unwrap();
    }
    compare_tensors("after three steps ", &parameters, &fixture.stepped)
}

fn run(fixture: &Fixture, parameters: &Tensors<f64>) -> Forward<f64> {
    let Fixture { config, tokens, targets, states_before, .. } = fixture;
    forward(config, parameters, tokens, Some(targets), states_before).unwrap()
}

fn compare_tensors(what: &str, ours: &Tensors<f64>, theirs: &Tensors<f64>) -> Result<(), String> {
    if !ours.keys().eq(theirs.keys()) {
        return Err(format!("{what}: {:?} instead of {:?}", ours.keys(), theirs.keys()));
    }
    let mut pairs = ours.iter().map(|(name, ours)| (format!("{what}{name}"), ours, &theirs[name]));
    pairs.try_for_each(|(what, ours, theirs)| compare(&what, ours, theirs, RELATIVE))
}

#[test]
fn own_vectors_cover_every_kind_of_model() {
    let own = Fixture::own();
    let covers = |kind: &str, is: fn(&Fixture) -> bool| assert!(own.iter().any(is), "no vector is {kind}");
    covers("dense", |f| f.config.top_k == f.config.experts && f.config.experts > 1);
    covers("top-2 of more", |f| f.config.top_k == 2 && f.config.experts > 2);
    covers("top-1 of more", |f| f.config.top_k == 1 && f.config.experts > 1);
    covers("of one expert", |f| f.config.experts == 1);
    covers("tied", |f| f.config.tied);
    covers("wider than its embedding", |f| f.config.hidden > f.config.embedding);
    covers("narrower than its embedding", |f| f.config.hidden < f.config.embedding);
    covers("clipped", |f| f.gradient_norm > f.adamw.clip);
    covers("not clipped", |f| f.gradient_norm < f.adamw.clip);
}

#[test]
fn comparison_accepts_rounding() {
    let expected = [1.0, -2.0, 1e-7, 0.0];
    assert_eq!(compare("", &expected, &expected, RELATIVE), Ok(()));
    assert_eq!(compare("", &[1.0 + 5e-10, -2.0 - 1e-9, 1e-7 + 5e-10, 0.0], &expected, RELATIVE), Ok(()));
    assert_eq!(compare::<f64>("", &[], &[], RELATIVE), Ok(()));
}

#[test]
fn comparison_rejects_what_is_wrong() {
    let expected = [1.0, -2.0, 1e-7, 0.0];
    let rejects = |place: usize, value: f64| {
        let mut actual = expected;
        actual[place] = value;
        assert!(compare("", &actual, &expected, RELATIVE).is_err(), "{value} at {place}");
    };
    for place in 0..expected.len() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            rejects(place, value);
        }
    }
    rejects(0, 0.0);
    rejects(0, 1.01);
    rejects(1, -2.02);
    rejects(1, 2.0);
    rejects(2, 0.0);
    rejects(2, 1.1e-7);
    rejects(3, 1e-300);
    assert!(compare("", &[1.01, -2.0, 1e-7, 0.0], &expected, 1e-3).is_err(), "1 % at a tolerance for f32");
    assert!(compare("", &[0.0; 4], &expected, RELATIVE).is_err());
    assert!(compare("", &expected[..3], &expected, RELATIVE).is_err());
    assert!(compare("", &[f64::NAN], &[f64::NAN], RELATIVE).is_err(), "an expected NaN proves nothing");
    assert!(compare("", &[f64::INFINITY], &[f64::INFINITY], RELATIVE).is_err());
}
