//! What training is said to take is what it allocates.

use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use shoestring::evaluate::{TextSize, TokenStream, evaluate};
use shoestring::kernels::{Kernels, Line};
use shoestring::model::{Layout, ModelConfig};
use shoestring::tokenizer::MINIMUM_VOCABULARY;
use shoestring::train::{Trainer, training_bytes};
use std::convert::Infallible;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const TINY: ModelConfig = ModelConfig {
    vocabulary: MINIMUM_VOCABULARY,
    embedding: 1,
    hidden: 1,
    layers: 1,
    experts: 1,
    top_k: 1,
    tied: false,
    eps_rmsnorm: 1e-5,
};

proptest! {
    // One test only: the allocator counts for the whole process.
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn training_allocates_what_it_is_said_to(
        vocabulary in prop_oneof![MINIMUM_VOCABULARY..2000, MINIMUM_VOCABULARY..20_000],
        (embedding, hidden) in (1usize..100, 1usize..100),
        (layers, experts, active) in (1usize..4, prop_oneof![1usize..9, 1usize..65], 0.0f64..1.5),
        (batch, steps) in (1usize..20, 1usize..100),
    ) {
        let top_k = ((experts as f64 * active).ceil() as usize).clamp(1, experts);
        let sizes = ModelConfig { vocabulary, embedding, hidden, layers, experts, top_k, ..TINY };
        let (said, taken) = (training_bytes(&sizes, batch, steps) as f64, allocated(sizes, batch, steps) as f64);
        // Lists of tasks and of runs are left out.
        let around = said * 0.98 - 2e4..said * 1.02 + 2e5;
        prop_assert!(around.contains(&taken), "{sizes:?} {batch} {steps}: {said} {taken}");
    }
}

/// The most that is allocated by a trainer, two chunks and a validation; an update of the weights allocates nothing.
fn allocated(config: ModelConfig, batch: usize, steps: usize) -> u64 {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let kernels = Kernels::best();
    let layout = Layout::new(&config);
    let weights = vec![Line::default(); layout.lines];
    let mut trainer = Trainer::new(config, kernels, weights, (batch, steps), 1).unwrap();
    let tokens: Vec<u32> = (0..batch * steps).map(|i| (i * i % config.vocabulary) as u32).collect();
    for _ in 0..2 {
        trainer.gradient(&tokens, &tokens, steps, None);
    }
    evaluate(trainer.average(), kernels, Zeros(300)).unwrap();
    (ALLOCATOR.peak_usage() - before) as u64
}

/// So many times token 0.
struct Zeros(usize);

impl TokenStream for Zeros {
    type Error = Infallible;

    fn read(&mut self, out: &mut Vec<u32>) -> Result<(), Infallible> {
        out.resize(out.len() + std::mem::take(&mut self.0), 0);
        Ok(())
    }

    fn size(&self) -> TextSize {
        TextSize { bytes: 1, chars: 1 }
    }
}
