//! The model on kernels that were plugged in from outside the crate that has the others.

#[path = "common/compare.rs"]
mod compare;
#[path = "../kernels/examples/plugged/kernels.rs"]
mod example;

use compare::compare;
use shoestring::model::{Kind, Weights};
use shoestring::quantize::requantize;
use shoestring::reference::{Tensors, forward, zero_states};
use shoestring::tokenizer::Special;
use shoestring::{Model, Session, bundled};

const TEXT: &str = "My name is Ada. What is the capital of France? Tell me a joke about bread, please!";

#[test]
fn the_bundled_model_has_the_logits_of_the_reference() {
    let model = Model::new(bundled::model().unwrap(), &example::KERNELS);
    assert_eq!(model.kernels().name(), "columns");

    // As floats, so that it is the plugged-in product that runs it.
    let stored = requantize(&model, Kind::F32);
    let config = model.config();
    let weights = Weights { config, layout: &stored.layout, lines: &stored.lines };
    let parameters: Tensors<f64> = stored
        .layout
        .tensors
        .iter()
        .map(|tensor| {
            let values = tensor.read(weights.lines).into_iter().map(f64::from);
            (tensor.name.clone(), values.collect())
        })
        .collect();

    let mut tokens = Vec::new();
    model.tokenizer().encode(TEXT.as_bytes(), Special::AsText, &mut tokens);
    assert!(tokens.len() > 20, "{tokens:?}");
    let expected = forward(&config, &parameters, &tokens, None, &zero_states(&config, 1)).unwrap().logits; // [T, V]

    let mut session = Session::new(weights, model.tokenizer(), model.kernels());
    for (step, (&token, expected)) in tokens.iter().zip(expected.chunks_exact(config.vocabulary)).enumerate()
    {
        session.feed_tokens(&[token]);
        compare(&format!("logits, step {step}"), session.logits(), expected, 3e-5).unwrap();
    }
}
