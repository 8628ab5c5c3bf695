//! The operations as safe methods: check every shape, then make one call.
//!
//! M is always derived from slice lengths. Every method panics, naming the operation, the buffer,
//! and the expected and actual lengths, if a buffer does not have its documented shape.

mod checks;
mod quantized;

use crate::kernels::Kernels;
use crate::line::{HalfLine, Line, PANEL_ROWS, PairLine, padded, panel_lines};
use crate::table::{AdamwStep, Epilogue};
use checks::{
    check_at_least, check_cell, check_gemm, check_length, check_norm, check_panels, check_rows,
    check_wide_rows, product,
};
use half::bf16;

/// Matrix products over panels.
impl Kernels {
    /// `out[M, Np] = a[M, Kp] · Wᵀ`, then the epilogue.
    ///
    /// `weights`: panels of W [N, K]; `depth`: K, at least 1; Kp = padded(K); Np = 16 * panels. Every
    /// element is one sum in the order of k, starting from the epilogue's bias or old value, so it
    /// does not depend on M or on which rows share a call.
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes.
    pub fn gemm(&self, out: &mut [f32], a: &[f32], weights: &[Line], depth: usize, epilogue: Epilogue<'_>) {
        check_gemm("gemm", out, a.len(), weights.len(), depth, depth, epilogue);
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.gemm)(out, a, weights, depth, epilogue) }
    }

    /// [`gemm`](Self::gemm) with every product rounded before it is added: the same bits on every kernel.
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes.
    pub fn gemm_unfused(
        &self,
        out: &mut [f32],
        a: &[f32],
        weights: &[Line],
        depth: usize,
        epilogue: Epilogue<'_>,
    ) {
        check_gemm("gemm_unfused", out, a.len(), weights.len(), depth, depth, epilogue);
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.gemm_unfused)(out, a, weights, depth, epilogue) }
    }

    /// [`gemm`](Self::gemm) with half-precision weights, each widened exactly.
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes.
    pub fn gemm_f16(
        &self,
        out: &mut [f32],
        a: &[f32],
        weights: &[HalfLine],
        depth: usize,
        epilogue: Epilogue<'_>,
    ) {
        check_gemm("gemm_f16", out, a.len(), weights.len(), depth, depth, epilogue);
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.gemm_f16)(out, a, weights, depth, epilogue) }
    }

    /// `out[M, Np] = a[M, Kp] · Wᵀ`, then the epilogue; a and W in bfloat16, sums in f32.
    ///
    /// Products are exact; sums are rounded pair by pair on CPUs with instructions for it, which also take
    /// denormal numbers for zero, so kernels differ in the last bits. a: [M, Kp], an odd row's padding zero;
    /// `weights`: ceil(K / 2) lines for each panel, from [`pack_bf16`](crate::pack_bf16). The model does not use
    /// it: rounding activations and weights to 8 bits of precision is for the caller to decide.
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes.
    pub fn gemm_bf16(
        &self,
        out: &mut [f32],
        a: &[bf16],
        weights: &[PairLine],
        depth: usize,
        epilogue: Epilogue<'_>,
    ) {
        check_gemm("gemm_bf16", out, a.len(), weights.len(), depth, depth.div_ceil(2), epilogue);
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.gemm_bf16)(out, a, weights, depth, epilogue) }
    }

    /// `out[i] = x[i]`, rounded to the nearest bfloat16, ties to even; any length. NaN stays NaN.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn narrow_bf16(&self, out: &mut [bf16], x: &[f32]) {
        check_length("narrow_bf16", "out", out.len(), x.len());
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.narrow_bf16)(out, x) }
    }

    /// `gradient[panels, K] += dyᵀ[N, M] · x[M, Kp]`, for the panels that start at column
    /// `16 * first_panel` of dy.
    ///
    /// `gradient`: K lines for each panel computed; dy: [M, dy_stride]; `depth`: K, at least 1.
    /// Every element is one sum in the order of m, however the panels are split between calls.
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes, or dy has fewer columns than the panels need.
    pub fn weight_gradient(
        &self,
        gradient: &mut [Line],
        first_panel: usize,
        dy: &[f32],
        dy_stride: usize,
        x: &[f32],
        depth: usize,
    ) {
        let panels = check_panels("weight_gradient", "gradient", gradient.len(), depth);
        let columns = product(first_panel.saturating_add(panels), PANEL_ROWS);
        check_at_least("weight_gradient", "dy_stride", dy_stride, columns.max(1));
        let rows = check_rows("weight_gradient", "dy", dy.len(), dy_stride);
        check_length("weight_gradient", "x", x.len(), product(rows, padded(depth)));
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.weight_gradient)(gradient, first_panel, dy, dy_stride, x, depth) }
    }

    /// `gradient[Np] += Σ_m dy[m, Np]`, summed in the order of m.
    ///
    /// # Panics
    ///
    /// If dy is not a whole number of rows of `16 * gradient.len()`.
    pub fn bias_gradient(&self, gradient: &mut [Line], dy: &[f32]) {
        if gradient.is_empty() {
            return check_length("bias_gradient", "dy", dy.len(), 0);
        }
        check_rows("bias_gradient", "dy", dy.len(), gradient.len() * PANEL_ROWS);
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.bias_gradient)(gradient, dy) }
    }

    /// The panels of Wᵀ [columns, rows] from those of W [rows, columns]; padding is zero.
    ///
    /// # Panics
    ///
    /// If `weights` does not hold `panel_lines(rows, columns)` lines or `out` `panel_lines(columns, rows)`.
    pub fn transpose_panels(&self, out: &mut [Line], weights: &[Line], rows: usize, columns: usize) {
        check_length("transpose_panels", "weights", weights.len(), panel_lines(rows, columns));
        check_length("transpose_panels", "out", out.len(), panel_lines(columns, rows));
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.transpose_panels)(out, weights, rows, columns) }
    }
}

/// The recurrent cell.
impl Kernels {
    /// For t in 0..T: `a[t] += h[t] · Wᵀ`, then `h[t+1] = h[t] + z[t] (gelu(a[t]) - h[t])`.
    ///
    /// h: [T+1, B, Hp], slot 0 given, the rest out. a: [T, B, Hp], in: the input's part and the bias,
    /// out: the pre-activation. z: [T, B, Hp], the update gate; 0 holds the state. `recurrent`:
    /// panels of W [H, H]. `batch`: B, `hidden`: H, both at least 1.
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes.
    pub fn cell_forward(
        &self,
        h: &mut [f32],
        a: &mut [f32],
        z: &[f32],
        recurrent: &[Line],
        batch: usize,
        hidden: usize,
    ) {
        check_cell("cell_forward", a.len(), z.len(), h.len(), ("recurrent", recurrent), batch, hidden);
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.cell_forward)(h, a, z, recurrent, batch, hidden) }
    }

    /// Backward through [`cell_forward`](Self::cell_forward), for t = T-1 down to 0:
    ///
    /// ```text
    /// dh += gate[t, b] dy[t, b, :]
    /// dz  = dh (gelu(a) - h[t]) z (1 - z)     written over z: the gradient at the sigmoid's input
    /// da  = dh z gelu'(a)                     written over a
    /// dh  = dh (1 - z) + da · W
    /// ```
    ///
    /// dh: [B, Hp], in: the gradient of the last state (zero when truncated), out: of `h[0]`.
    /// a, z, h as the forward call left them; dy: [T, B, Hp]; gate: [T, B];
    /// `recurrent_transposed`: panels of Wᵀ [H, H].
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes.
    #[expect(
        clippy::too_many_arguments,
        reason = "the buffers of one loop over time; a struct would be used once"
    )]
    pub fn cell_backward(
        &self,
        dh: &mut [f32],
        a: &mut [f32],
        z: &mut [f32],
        h: &[f32],
        dy: &[f32],
        gate: &[f32],
        recurrent_transposed: &[Line],
        batch: usize,
        hidden: usize,
    ) {
        let recurrent = ("recurrent_transposed", recurrent_transposed);
        let steps = check_cell("cell_backward", a.len(), z.len(), h.len(), recurrent, batch, hidden);
        check_length("cell_backward", "dh", dh.len(), product(batch, padded(hidden)));
        check_length("cell_backward", "dy", dy.len(), a.len());
        check_length("cell_backward", "gate", gate.len(), product(steps, batch));
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.cell_backward)(dh, a, z, h, dy, gate, recurrent_transposed, batch, hidden) }
    }

    /// One state update: `h[i] += z[i] (gelu(a[i]) - h[i])`; any length. The same bits on every kernel.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn cell_step(&self, h: &mut [f32], z: &[f32], a: &[f32]) {
        check_length("cell_step", "z", z.len(), h.len());
        check_length("cell_step", "a", a.len(), h.len());
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.cell_step)(h, z, a) }
    }
}

/// Rows: weighted sums and normalisation.
impl Kernels {
    /// `y[m, :] += scale[m] x[m, :]`; y, x: [M, N], N a multiple of 16; scale: `[M]`. The same bits
    /// on every kernel.
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes.
    pub fn add_scaled_rows(&self, y: &mut [f32], x: &[f32], scale: &[f32]) {
        check_wide_rows("add_scaled_rows", "y", y.len(), scale.len());
        check_length("add_scaled_rows", "x", x.len(), y.len());
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.add_scaled_rows)(y, x, scale) }
    }

    /// `out[m] = Σ_n x[m, n] y[m, n]`; x, y: [M, N], N a multiple of 16; out: `[M]`.
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes.
    pub fn dot_rows(&self, out: &mut [f32], x: &[f32], y: &[f32]) {
        check_wide_rows("dot_rows", "x", x.len(), out.len());
        check_length("dot_rows", "y", y.len(), x.len());
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.dot_rows)(out, x, y) }
    }

    /// `out = y · inverse_rms · gain`, with `inverse_rms[m] = 1 / sqrt(Σ_n y[m, n]² / width + eps)`.
    ///
    /// out, y: [M, padded(width)]; inverse_rms: `[M]`, out; gain: [padded(width) / 16] lines, padding 0;
    /// `width` at least 1. Padding of y is not counted. (Zhang and Sennrich, 2019, with eps inside the root.)
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes.
    pub fn rms_norm(
        &self,
        out: &mut [f32],
        inverse_rms: &mut [f32],
        y: &[f32],
        gain: &[Line],
        width: usize,
        eps: f32,
    ) {
        check_norm("rms_norm", y.len(), inverse_rms.len(), gain, width);
        check_length("rms_norm", "out", out.len(), y.len());
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.rms_norm)(out, inverse_rms, y, gain, width, eps) }
    }

    /// Backward through [`rms_norm`](Self::rms_norm): dout [M, padded(width)] becomes the gradient of y,
    /// and `dgain[n] += Σ_m dout[m, n] y[m, n] inverse_rms[m]`.
    ///
    /// With ŷ = y · inverse_rms: dy = inverse_rms (dout · gain - ŷ · mean(dout · gain · ŷ)).
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes.
    pub fn rms_norm_backward(
        &self,
        dout: &mut [f32],
        dgain: &mut [Line],
        y: &[f32],
        inverse_rms: &[f32],
        gain: &[Line],
        width: usize,
    ) {
        check_norm("rms_norm_backward", y.len(), inverse_rms.len(), gain, width);
        check_length("rms_norm_backward", "dout", dout.len(), y.len());
        check_length("rms_norm_backward", "dgain", dgain.len(), gain.len());
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.rms_norm_backward)(dout, dgain, y, inverse_rms, gain, width) }
    }
}

macro_rules! elementwise {
    ($($(#[$documentation:meta])+ $name:ident;)*) => {
        /// Functions of one variable; any length.
        impl Kernels {
            $(
                $(#[$documentation])+
                ///
                /// # Panics
                ///
                /// If the lengths differ.
                pub fn $name(&self, out: &mut [f32], x: &[f32]) {
                    check_length(stringify!($name), "out", out.len(), x.len());
                    // SAFETY: shapes checked above; `self` exists only where its functions can run.
                    unsafe { (self.table.$name)(out, x) }
                }
            )*
        }
    };
}
elementwise! {
    /// `out[i] = e^x[i]`.
    ///
    /// Within 1.02 ulp at all 2³² inputs, denormal results included.
    exp;
    /// `out[i] = 1 / (1 + e^-x[i])`.
    ///
    /// Within 2.83 ulp at all 2³² inputs, denormal results included.
    sigmoid;
    /// `out[i] = x[i] Φ(x[i])`, Φ the normal distribution function: GELU in its exact form.
    ///
    /// At all 2³² inputs within 6.0e-7 relative or 6.0e-8 absolute error, whichever is larger (`wide`; the
    /// fused instruction sets reach 5.1e-7 and 5.1e-8). Far in the negative tail the relative error grows to
    /// 9e-6, and results below 4e-39 are 0.
    gelu;
    /// `out[i] = Φ(x[i]) + x[i] φ(x[i])`: the derivative of [`gelu`](Self::gelu).
    ///
    /// Within 1.9e-7 absolute error at all 2³² inputs.
    gelu_derivative;
}

/// Probabilities and loss.
impl Kernels {
    /// values = softmax(values), one row of any length, in place.
    ///
    /// A NaN, an infinity, or nothing but negative infinities gives NaN; single negative infinities give 0. The
    /// same bits on every kernel.
    pub fn softmax(&self, values: &mut [f32]) {
        // SAFETY: any slice will do; `self` exists only where its functions can run.
        unsafe { (self.table.softmax)(values) }
    }

    /// Softmax cross-entropy of M rows: returns `Σ_m -ln softmax(logits[m])[targets[m]]`, in nats, and
    /// turns logits into their gradient, (softmax - onehot(target)) · scale.
    ///
    /// logits: [M, Np], of which the first `vocabulary` columns count and the rest become 0; Np a multiple
    /// of 16; targets: `[M]`, each below `vocabulary`.
    ///
    /// # Panics
    ///
    /// If a buffer's length does not fit these shapes or a target is not below `vocabulary`.
    pub fn cross_entropy(&self, logits: &mut [f32], targets: &[u32], vocabulary: usize, scale: f32) -> f64 {
        let columns = check_wide_rows("cross_entropy", "logits", logits.len(), targets.len());
        if targets.is_empty() {
            return 0.0;
        }
        check_at_least("cross_entropy", "columns of logits", columns, vocabulary.max(1));
        if let Some(target) = targets.iter().find(|&&target| target as usize >= vocabulary) {
            panic!("cross_entropy: `targets` must be below {vocabulary}, got {target}");
        }
        // SAFETY: shapes and targets checked above; `self` exists only where its functions can run.
        unsafe { (self.table.cross_entropy)(logits, targets, vocabulary, scale) }
    }
}

/// The optimizer and regularisation.
impl Kernels {
    /// One step of AdamW (Loshchilov and Hutter, 2019) in the order of `torch.optim.AdamW`:
    ///
    /// ```text
    /// g = gradient · gradient_scale
    /// w = w (1 - learning_rate · weight_decay)
    /// m = m + (g - m)(1 - beta1)
    /// v = v beta2 + g² (1 - beta2)
    /// w = w - learning_rate / correction1 · m / (sqrt(v) / sqrt(correction2) + eps)
    /// ```
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn adamw(
        &self,
        weights: &mut [Line],
        first_moment: &mut [Line],
        second_moment: &mut [Line],
        gradient: &[Line],
        step: &AdamwStep,
    ) {
        check_length("adamw", "first_moment", first_moment.len(), weights.len());
        check_length("adamw", "second_moment", second_moment.len(), weights.len());
        check_length("adamw", "gradient", gradient.len(), weights.len());
        // SAFETY: shapes checked above; `self` exists only where its functions can run.
        unsafe { (self.table.adamw)(weights, first_moment, second_moment, gradient, step) }
    }

    /// `Σ values[i]²`, in f64: 16 partial sums over i mod 16, added pairwise at distance 8, 4, 2, 1. The
    /// same bits on every kernel.
    #[must_use]
    pub fn sum_of_squares(&self, values: &[f32]) -> f64 {
        // SAFETY: any slice will do; `self` exists only where its functions can run.
        unsafe { (self.table.sum_of_squares)(values) }
    }

    /// Inverted dropout in place: element i is kept, and divided by `keep`, iff a hash of `key` and
    /// `first + i` is below keep · 2³²; otherwise it becomes 0. Any length.
    ///
    /// The hash runs the position's lower 32 bits twice through `lowbias32` (Chris Wellons), with 64
    /// bits made of the key and the position's upper half mixed in before and between. It is the same on
    /// every kernel, bit for bit, and however a buffer is split.
    ///
    /// # Panics
    ///
    /// If `keep` is not in (0, 1].
    pub fn dropout(&self, values: &mut [f32], key: u64, first: u64, keep: f32) {
        assert!(keep > 0.0 && keep <= 1.0, "dropout: `keep` must be above 0 and at most 1, got {keep}");
        // SAFETY: any slice will do; `self` exists only where its functions can run.
        unsafe { (self.table.dropout)(values, key, first, keep) }
    }
}
