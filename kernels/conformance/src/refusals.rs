//! Buffers of the wrong length are refused, by name, before any kernel sees them.

use crate::failure::panic_message;
use shoestring_kernels::{AdamwStep, Epilogue, Kernels, Line, PANEL_ROWS};

checks! {
    of_products: gemm, transpose_panels;
    of_gradients: weight_gradient, bias_gradient;
    of_the_cell: cell_forward, cell_backward, cell_step;
    of_rows: add_scaled_rows, dot_rows, rms_norm, rms_norm_backward;
    of_functions_loss_and_optimizer: exp, gelu_derivative, cross_entropy, adamw, dropout;
}

const LINE: Line = Line([0.0; PANEL_ROWS]);

/// Runs `call`, which must panic with `message`.
#[track_caller]
fn refused(message: &str, call: impl FnOnce()) {
    match panic_message(call) {
        Ok(()) => panic!("accepted, which should be refused: {message}"),
        Err(got) => assert_eq!(got, message),
    }
}

fn of_products(kernels: &Kernels) {
    let (a, w) = ([0.0; 64], [LINE; 6]);
    refused("gemm: `out` must have length 128, got 64", || {
        kernels.gemm(&mut [0.0; 64], &a, &w, 3, Epilogue::Store);
    });
    refused("gemm: `a` must be a whole number of rows of 16, got 63", || {
        kernels.gemm(&mut [0.0; 128], &a[1..], &w, 3, Epilogue::Store);
    });
    refused("gemm: `weights` must be a whole number of panels of 4 lines, got 6", || {
        kernels.gemm(&mut [0.0; 128], &a, &w, 4, Epilogue::Store);
    });
    refused("gemm: `bias` must have length 2, got 1", || {
        kernels.gemm(&mut [0.0; 128], &a, &w, 3, Epilogue::Bias(&[LINE]));
    });
    refused("gemm: `depth` must be at least 1, got 0", || {
        kernels.gemm(&mut [], &a, &[], 0, Epilogue::Store);
    });
    refused("gemm: `bias` must have length 2, got 3", || {
        kernels.gemm(&mut [0.0; 32], &a[..16], &w, 3, Epilogue::BiasSigmoid(&[LINE; 3]));
    });
    refused("transpose_panels: `out` must have length 51, got 50", || {
        kernels.transpose_panels(&mut [LINE; 50], &[LINE; 2 * 33], 17, 33);
    });
    refused("transpose_panels: `weights` must have length 66, got 65", || {
        kernels.transpose_panels(&mut [LINE; 51], &[LINE; 65], 17, 33);
    });
}

fn of_gradients(kernels: &Kernels) {
    let dy = [0.0; 96];
    refused("weight_gradient: `dy_stride` must be at least 48, got 32", || {
        kernels.weight_gradient(&mut [LINE; 6], 1, &dy, 32, &[0.0; 48], 3);
    });
    refused("weight_gradient: `x` must have length 48, got 47", || {
        kernels.weight_gradient(&mut [LINE; 6], 0, &dy, 32, &[0.0; 47], 3);
    });
    refused("weight_gradient: `dy` must be a whole number of rows of 40, got 96", || {
        kernels.weight_gradient(&mut [LINE; 6], 0, &dy, 40, &[0.0; 48], 3);
    });
    refused("weight_gradient: `gradient` must be a whole number of panels of 4 lines, got 6", || {
        kernels.weight_gradient(&mut [LINE; 6], 0, &dy, 32, &[0.0; 48], 4);
    });
    refused(&format!("weight_gradient: `dy_stride` must be at least {}, got 32", usize::MAX), || {
        kernels.weight_gradient(&mut [LINE; 6], usize::MAX, &dy, 32, &[0.0; 48], 3);
    });
    refused("bias_gradient: `dy` must be a whole number of rows of 32, got 95", || {
        kernels.bias_gradient(&mut [LINE; 2], &dy[1..]);
    });
    refused("bias_gradient: `dy` must have length 0, got 96", || kernels.bias_gradient(&mut [], &dy));
}

fn of_the_cell(kernels: &Kernels) {
    let recurrent = [LINE; 5];
    let forward = |h: usize, a: usize, z: usize, lines: usize| {
        move || {
            kernels.cell_forward(
                &mut vec![0.0; h],
                &mut vec![0.0; a],
                &vec![0.0; z],
                &recurrent[..lines],
                2,
                5,
            );
        }
    };
    refused("cell_forward: `h` must have length 96, got 64", forward(64, 64, 64, 5));
    refused("cell_forward: `a` must be a whole number of rows of 32, got 65", forward(96, 65, 65, 5));
    refused("cell_forward: `z` must have length 64, got 32", forward(96, 64, 32, 5));
    refused("cell_forward: `recurrent` must have length 5, got 4", forward(96, 64, 64, 4));
    refused("cell_forward: `batch` must be at least 1, got 0", || {
        kernels.cell_forward(&mut [], &mut [], &[], &recurrent, 0, 5);
    });
    let backward = |dh: usize, dy: usize, gate: usize| {
        move || {
            let (mut a, mut z) = ([0.0; 64], [0.0; 64]);
            let (mut dh, dy, gate) = (vec![0.0; dh], vec![0.0; dy], vec![0.0; gate]);
            kernels.cell_backward(&mut dh, &mut a, &mut z, &[0.0; 96], &dy, &gate, &recurrent, 2, 5);
        }
    };
    refused("cell_backward: `dh` must have length 32, got 31", backward(31, 64, 4));
    refused("cell_backward: `dy` must have length 64, got 63", backward(32, 63, 4));
    refused("cell_backward: `gate` must have length 4, got 5", backward(32, 64, 5));
    refused("cell_step: `z` must have length 3, got 2", || {
        kernels.cell_step(&mut [0.0; 3], &[0.0; 2], &[0.0; 3])
    });
    refused("cell_step: `a` must have length 3, got 4", || {
        kernels.cell_step(&mut [0.0; 3], &[0.0; 3], &[0.0; 4])
    });
}

fn of_rows(kernels: &Kernels) {
    refused("add_scaled_rows: `x` must have length 32, got 16", || {
        kernels.add_scaled_rows(&mut [0.0; 32], &[0.0; 16], &[0.0; 2]);
    });
    refused("add_scaled_rows: `y` must be 2 rows of a multiple of 16, got 40", || {
        kernels.add_scaled_rows(&mut [0.0; 40], &[0.0; 40], &[0.0; 2]);
    });
    refused("add_scaled_rows: `y` must be 0 rows of a multiple of 16, got 16", || {
        kernels.add_scaled_rows(&mut [0.0; 16], &[0.0; 16], &[]);
    });
    refused("dot_rows: `x` must be 3 rows of a multiple of 16, got 32", || {
        kernels.dot_rows(&mut [0.0; 3], &[0.0; 32], &[0.0; 32]);
    });
    refused("dot_rows: `y` must have length 32, got 31", || {
        kernels.dot_rows(&mut [0.0; 2], &[0.0; 32], &[0.0; 31])
    });
    refused("rms_norm: `out` must have length 64, got 32", || {
        kernels.rms_norm(&mut [0.0; 32], &mut [0.0; 2], &[0.0; 64], &[LINE; 2], 20, 0.0);
    });
    refused("rms_norm: `inverse_rms` must have length 2, got 1", || {
        kernels.rms_norm(&mut [0.0; 64], &mut [0.0; 1], &[0.0; 64], &[LINE; 2], 20, 0.0);
    });
    refused("rms_norm: `gain` must have length 2, got 3", || {
        kernels.rms_norm(&mut [0.0; 64], &mut [0.0; 2], &[0.0; 64], &[LINE; 3], 20, 0.0);
    });
    refused("rms_norm_backward: `dgain` must have length 2, got 1", || {
        kernels.rms_norm_backward(&mut [0.0; 64], &mut [LINE; 1], &[0.0; 64], &[0.0; 2], &[LINE; 2], 20);
    });
    refused("rms_norm_backward: `dout` must have length 64, got 63", || {
        kernels.rms_norm_backward(&mut [0.0; 63], &mut [LINE; 2], &[0.0; 64], &[0.0; 2], &[LINE; 2], 20);
    });
}

fn of_functions_loss_and_optimizer(kernels: &Kernels) {
    refused("exp: `out` must have length 4, got 3", || kernels.exp(&mut [0.0; 3], &[0.0; 4]));
    refused("gelu_derivative: `out` must have length 4, got 5", || {
        kernels.gelu_derivative(&mut [0.0; 5], &[0.0; 4])
    });
    refused("cross_entropy: `targets` must be below 10, got 10", || {
        kernels.cross_entropy(&mut [0.0; 32], &[3, 10], 10, 1.0);
    });
    refused("cross_entropy: `columns of logits` must be at least 17, got 16", || {
        kernels.cross_entropy(&mut [0.0; 32], &[3, 10], 17, 1.0);
    });
    refused("cross_entropy: `logits` must be 2 rows of a multiple of 16, got 33", || {
        kernels.cross_entropy(&mut [0.0; 33], &[3, 10], 16, 1.0);
    });
    let step = AdamwStep {
        learning_rate: 0.0,
        beta1: 0.0,
        beta2: 0.0,
        eps: 1.0,
        weight_decay: 0.0,
        gradient_scale: 1.0,
        correction1: 1.0,
        correction2: 1.0,
    };
    refused("adamw: `second_moment` must have length 2, got 1", move || {
        kernels.adamw(&mut [LINE; 2], &mut [LINE; 2], &mut [LINE; 1], &[LINE; 2], &step);
    });
    refused("adamw: `gradient` must have length 2, got 3", move || {
        kernels.adamw(&mut [LINE; 2], &mut [LINE; 2], &mut [LINE; 2], &[LINE; 3], &step);
    });
    for keep in [0.0, -0.5, 1.5, f32::NAN] {
        refused(&format!("dropout: `keep` must be above 0 and at most 1, got {keep}"), || {
            kernels.dropout(&mut [0.0], 0, 0, keep);
        });
    }
}
