//! Kernels from outside the crate: right ones pass every check, and wrong ones fail those of the operation.

#[path = "../examples/plugged/kernels.rs"]
mod example;

use half::{bf16, f16};
use shoestring_kernels::quantized::{Quantized, QuantizedCell};
use shoestring_kernels::{
    AdamwStep, CodeLine, Epilogue, HalfLine, Kernels, Line, PairLine, Table, as_floats_mut,
};
use shoestring_kernels_conformance::{Check, check, checks};

#[test]
fn the_example_passes_every_check() {
    let report = check(&example::KERNELS).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(report.passed.len(), checks().count());
    assert!(report.to_string().contains("ms  products::gemm_of_every_tile_and_epilogue\n"));
}

#[test]
fn whatever_is_wrong_with_one_operation_is_refused_by_its_name() {
    for operation in checks().flat_map(Check::operations) {
        let is_tried = wrong_kernels().iter().any(|(wrong, _)| wrong == operation);
        assert!(is_tried, "no kernels have a wrong {operation}: it belongs into `wrong_kernels`");
    }
    for (operation, kernels) in wrong_kernels() {
        let fault = kernels.description();
        let mut found = false;
        for check in checks().filter(|check| check.operations().contains(&operation)) {
            if let Err(failure) = check.run(&kernels) {
                let names = |operation: &&str| failure.message.starts_with(operation);
                assert!(
                    check.operations().iter().any(names),
                    "{operation} {fault}: which operation? {failure}"
                );
                found |= failure.message.starts_with(operation);
            }
        }
        assert!(found, "{operation} {fault}, which no check notices");
    }
}

#[test]
fn the_entry_point_names_kernels_check_operation_and_shape() {
    let expected = [
        (
            ("gemm", "writes past its buffer"),
            "products::gemm_of_every_tile_and_epilogue: gemm Store 0x1x1: a kernel wrote after its buffer (",
        ),
        (
            ("dot_rows", "is wrong by 1 %"),
            "rows::rows_are_multiplied_and_summed: dot_rows 1x16: out[0]: got ",
        ),
        (
            ("gemm", "gives NaN"),
            "products::one_row_is_the_rows_of_many_bit_for_bit: gemm Store 1x1x1: out[0]: got NaN, expected ",
        ),
        (
            ("cell_forward", "gives a wrong zero"),
            "cell::a_gate_of_zero_holds_the_state_exactly: cell_forward, 3 steps of 4x20: h[115]: got 0e0, expected ",
        ),
    ];
    let wrong = wrong_kernels();
    for ((operation, fault), line) in expected {
        let mut wrong =
            wrong.iter().filter(|(name, kernels)| *name == operation && kernels.description() == fault);
        let failure = check(&wrong.next().unwrap().1).unwrap_err();
        let (failed, all) = (failure.failed.len(), checks().count());
        assert_eq!((failure.kernels, failure.passed), ("wrong", all - failed));
        let text = failure.to_string();
        assert!(text.starts_with(&format!("kernels 'wrong' fail {failed} of {all} checks\n  ")), "{text}");
        assert!(text.contains(&format!("\n  {line}")), "{text}");
    }
}

#[test]
fn a_panic_of_a_kernel_is_a_failed_check() {
    fn exp(_: &mut [f32], _: &[f32]) {
        panic!("out of order");
    }
    // SAFETY: the functions are safe Rust without target features.
    let kernels = unsafe { Kernels::plug("wrong", "panics", Table { exp, ..Table::SCALAR }) };
    let failure = check(&kernels).unwrap_err();
    assert!(failure.failed.iter().all(|failed| failed.message.starts_with("exp ")), "{failure}");
    assert!(failure.to_string().contains(": out of order ("), "{failure}");
}

/// What may be wrong with an output, by number: a function's pointer in a table can have no other parameter.
const FAULTS: [&str; 5] =
    ["writes past its buffer", "is wrong by 1 %", "gives NaN", "gives a wrong zero", "is off by a bit"];
const PAST_THE_BUFFER: usize = 0;

fn spoiled<const FAULT: usize>(value: f64) -> f64 {
    match FAULTS[FAULT] {
        "is wrong by 1 %" => value * 1.01,
        "gives NaN" => f64::NAN,
        "gives a wrong zero" => 0.0,
        fault => unreachable!("{fault} says nothing of a value"),
    }
}

/// Writes past an operation's right output, or makes its last element that is not zero wrong.
///
/// # Safety
///
/// The float after `output`, if there is one, may be written: the buffers of checks lie between guards.
unsafe fn spoil<'a, const FAULT: usize>(output: impl Into<Option<&'a mut [f32]>>) {
    let Some(output) = output.into() else { return };
    if FAULT == PAST_THE_BUFFER {
        // SAFETY: the caller's promise.
        unsafe { output.as_mut_ptr().add(output.len()).write(0.0) };
    } else if let Some(value) = output.iter_mut().rev().find(|value| **value != 0.0) {
        *value = spoiled::<FAULT>(f64::from(*value)) as f32;
    }
}

/// The output of the last cell. Where there is no cell there is no buffer whose end could be written past.
fn last_steps<'a>(cells: &'a mut [QuantizedCell<'_>]) -> Option<&'a mut [f32]> {
    cells.last_mut().map(|cell| &mut *cell.steps)
}

/// Every operation with every fault in one of its outputs; the rest is right.
fn wrong_kernels() -> Vec<(&'static str, Kernels)> {
    let mut all = Vec::new();
    let mut add = |operation, fault: usize, table| {
        // SAFETY: no target features, and only checks run them, whose buffers may be written past.
        all.push((operation, unsafe { Kernels::plug("wrong", FAULTS[fault], table) }));
    };
    /// `wrong! { operation(arguments) -> result, the output to spoil; }`
    macro_rules! wrong {
        ($($operation:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?, $output:expr;)*) => {$({
            #[allow(clippy::too_many_arguments, reason = "the signatures of the table")]
            unsafe fn $operation<const FAULT: usize>($($argument: $type),*) $(-> $result)? {
                // SAFETY: called with what `SCALAR` may be called with, in a check.
                unsafe {
                    let result = (Table::SCALAR.$operation)($($argument),*);
                    spoil::<FAULT>($output);
                    result
                }
            }
            add(stringify!($operation), 0, Table { $operation: $operation::<0>, ..Table::SCALAR });
            add(stringify!($operation), 1, Table { $operation: $operation::<1>, ..Table::SCALAR });
            add(stringify!($operation), 2, Table { $operation: $operation::<2>, ..Table::SCALAR });
            add(stringify!($operation), 3, Table { $operation: $operation::<3>, ..Table::SCALAR });
        })*};
    }
    wrong! {
        gemm(out: &mut [f32], a: &[f32], weights: &[Line], depth: usize, epilogue: Epilogue<'_>), out;
        gemm_unfused(out: &mut [f32], a: &[f32], weights: &[Line], depth: usize, epilogue: Epilogue<'_>), out;
        gemm_f16(out: &mut [f32], a: &[f32], weights: &[HalfLine], depth: usize, epilogue: Epilogue<'_>), out;
        gemm_bf16(
            out: &mut [f32], a: &[bf16], weights: &[PairLine], depth: usize, epilogue: Epilogue<'_>
        ), out;
        gemm_q8(
            out: &mut [f32], a: Quantized<'_>, weights: &[CodeLine], scales: &[Line], depth: usize,
            epilogue: Epilogue<'_>
        ), out;
        gemm_q4(
            out: &mut [f32], a: Quantized<'_>, weights: &[CodeLine], scales: &[HalfLine], depth: usize,
            epilogue: Epilogue<'_>
        ), out;
        cell_forward_q8(cells: &mut [QuantizedCell<'_>], batch: usize, hidden: usize), last_steps(cells);
        quantize_rows(codes: &mut [i8], scales: &mut [f32], sums: &mut [i32], x: &[f32], depth: usize), scales;
        dequantize_q8(out: &mut [f32], codes: &[i8], scale: f32), out;
        dequantize_q4(out: &mut [f32], codes: &[i8], scales: &[f16]), out;
        widen_f16(out: &mut [f32], x: &[f16]), out;
        weight_gradient(
            gradient: &mut [Line], first_panel: usize, dy: &[f32], dy_stride: usize, x: &[f32], depth: usize
        ), as_floats_mut(gradient);
        bias_gradient(gradient: &mut [Line], dy: &[f32]), as_floats_mut(gradient);
        transpose_panels(out: &mut [Line], weights: &[Line], rows: usize, columns: usize), as_floats_mut(out);
        cell_forward(
            h: &mut [f32], a: &mut [f32], z: &[f32], recurrent: &[Line], batch: usize, hidden: usize
        ), h;
        cell_backward(
            dh: &mut [f32], a: &mut [f32], z: &mut [f32], h: &[f32], dy: &[f32], gate: &[f32],
            recurrent_transposed: &[Line], batch: usize, hidden: usize
        ), z;
        cell_step(h: &mut [f32], z: &[f32], a: &[f32]), h;
        add_scaled_rows(y: &mut [f32], x: &[f32], scale: &[f32]), y;
        dot_rows(out: &mut [f32], x: &[f32], y: &[f32]), out;
        rms_norm(
            out: &mut [f32], inverse_rms: &mut [f32], y: &[f32], gain: &[Line], width: usize, eps: f32
        ), inverse_rms;
        rms_norm_backward(
            dout: &mut [f32], dgain: &mut [Line], y: &[f32], inverse_rms: &[f32], gain: &[Line], width: usize
        ), as_floats_mut(dgain);
        exp(out: &mut [f32], x: &[f32]), out;
        sigmoid(out: &mut [f32], x: &[f32]), out;
        gelu(out: &mut [f32], x: &[f32]), out;
        gelu_derivative(out: &mut [f32], x: &[f32]), out;
        softmax(values: &mut [f32]), values;
        cross_entropy(logits: &mut [f32], targets: &[u32], vocabulary: usize, scale: f32) -> f64, logits;
        adamw(
            weights: &mut [Line], first_moment: &mut [Line], second_moment: &mut [Line], gradient: &[Line],
            step: &AdamwStep
        ), as_floats_mut(second_moment);
        dropout(values: &mut [f32], key: u64, first: u64, keep: f32), values;
    }
    /// `wrong_result! { operation(arguments); }`, of what has a result and no output.
    macro_rules! wrong_result {
        ($($operation:ident($($argument:ident: $type:ty),*);)*) => {$({
            unsafe fn $operation<const FAULT: usize>($($argument: $type),*) -> f64 {
                // SAFETY: called with what `SCALAR` may be called with.
                spoiled::<FAULT>(unsafe { (Table::SCALAR.$operation)($($argument),*) })
            }
            add(stringify!($operation), 1, Table { $operation: $operation::<1>, ..Table::SCALAR });
            add(stringify!($operation), 2, Table { $operation: $operation::<2>, ..Table::SCALAR });
            add(stringify!($operation), 3, Table { $operation: $operation::<3>, ..Table::SCALAR });
        })*};
    }
    wrong_result! {
        sum_of_squares(values: &[f32]);
        probe_multiply_adds(steps: usize);
        probe_reads(lines: &[Line]);
    }
    /// Writes past the numbers, or changes the last of them, as `CHANGE` says.
    unsafe fn narrow_bf16<const CHANGE: usize>(out: &mut [bf16], x: &[f32]) {
        // SAFETY: called with what `SCALAR` may be called with, in a check, whose buffers may be written past.
        unsafe {
            (Table::SCALAR.narrow_bf16)(out, x);
            match CHANGE {
                0 => out.as_mut_ptr().add(out.len()).write(bf16::ZERO),
                _ => {
                    let mut numbers = out.iter_mut().rev().filter(|out| !out.is_nan());
                    if let Some(last) = numbers.next() {
                        *last = bf16::from_bits(last.to_bits() ^ 1);
                    }
                }
            }
        }
    }
    add("narrow_bf16", 0, Table { narrow_bf16: narrow_bf16::<0>, ..Table::SCALAR });
    add("narrow_bf16", 1, Table { narrow_bf16: narrow_bf16::<1>, ..Table::SCALAR });
    /// Writes past the codes or the sums, or changes the last of them, as `CHANGE` says.
    unsafe fn quantize_rows<const CHANGE: usize>(
        codes: &mut [i8],
        scales: &mut [f32],
        sums: &mut [i32],
        x: &[f32],
        depth: usize,
    ) {
        // SAFETY: called with what `SCALAR` may be called with, in a check, whose buffers may be written past.
        unsafe {
            (Table::SCALAR.quantize_rows)(codes, scales, sums, x, depth);
            match CHANGE {
                0 => codes.as_mut_ptr().add(codes.len()).write(0),
                1 => sums.as_mut_ptr().add(sums.len()).write(0),
                2 => codes.iter_mut().rev().filter(|code| **code > 0).take(1).for_each(|code| *code -= 1),
                _ => sums.iter_mut().rev().take(1).for_each(|sum| *sum += 1),
            }
        }
    }
    add("quantize_rows", 0, Table { quantize_rows: quantize_rows::<0>, ..Table::SCALAR });
    add("quantize_rows", 0, Table { quantize_rows: quantize_rows::<1>, ..Table::SCALAR });
    add("quantize_rows", 1, Table { quantize_rows: quantize_rows::<2>, ..Table::SCALAR });
    add("quantize_rows", 1, Table { quantize_rows: quantize_rows::<3>, ..Table::SCALAR });
    /// One unit in the last place, where the bits are promised.
    fn next_up<'a>(out: impl Into<Option<&'a mut [f32]>>) {
        let out = out.into();
        out.into_iter()
            .flatten()
            .rev()
            .filter(|value| **value != 0.0)
            .take(1)
            .for_each(|value| *value = value.next_up());
    }
    /// `off_by_a_bit! { operation(arguments), the output; }`
    macro_rules! off_by_a_bit {
        ($($operation:ident($($argument:ident: $type:ty),*), $output:expr;)*) => {$({
            unsafe fn $operation($($argument: $type),*) {
                // SAFETY: called with what `SCALAR` may be called with.
                unsafe { (Table::SCALAR.$operation)($($argument),*) };
                next_up($output);
            }
            add(stringify!($operation), 4, Table { $operation, ..Table::SCALAR });
        })*};
    }
    off_by_a_bit! {
        gemm_unfused(out: &mut [f32], a: &[f32], weights: &[Line], depth: usize, epilogue: Epilogue<'_>), out;
        gemm_q8(
            out: &mut [f32], a: Quantized<'_>, weights: &[CodeLine], scales: &[Line], depth: usize,
            epilogue: Epilogue<'_>
        ), out;
        gemm_q4(
            out: &mut [f32], a: Quantized<'_>, weights: &[CodeLine], scales: &[HalfLine], depth: usize,
            epilogue: Epilogue<'_>
        ), out;
        cell_forward_q8(cells: &mut [QuantizedCell<'_>], batch: usize, hidden: usize), last_steps(cells);
        quantize_rows(codes: &mut [i8], scales: &mut [f32], sums: &mut [i32], x: &[f32], depth: usize), scales;
        dequantize_q8(out: &mut [f32], codes: &[i8], scale: f32), out;
        dequantize_q4(out: &mut [f32], codes: &[i8], scales: &[f16]), out;
        widen_f16(out: &mut [f32], x: &[f16]), out;
        cell_step(h: &mut [f32], z: &[f32], a: &[f32]), h;
        add_scaled_rows(y: &mut [f32], x: &[f32], scale: &[f32]), y;
        rms_norm(
            out: &mut [f32], inverse_rms: &mut [f32], y: &[f32], gain: &[Line], width: usize, eps: f32
        ), out;
        softmax(values: &mut [f32]), values;
    }
    all
}
