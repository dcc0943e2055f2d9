//! Loops the compiler can turn into vector instructions, compiled for each instruction set and
//! chosen at run time.

/// Independent partial sums: floating-point addition is not associative, so the compiler may not
/// split a single running sum into the lanes of a vector by itself.
pub(crate) const LANES: usize = 16;

/// Defines a function compiled several times, and calls the version for the widest vectors that
/// this machine has. What it calls must be `#[inline(always)]` to be compiled along with it.
macro_rules! for_each_instruction_set {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        fn $name($($arg: $type),*) {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn portable($($arg: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($arg: $type),*) {
                    portable($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $type),*) {
                    portable($($arg),*)
                }
                let v3 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
                if v3
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                {
                    // SAFETY: the machine has the instruction sets the function is compiled for.
                    unsafe { avx512($($arg),*) }
                } else if v3 {
                    // SAFETY: the machine has the instruction sets the function is compiled for.
                    unsafe { avx2($($arg),*) }
                } else {
                    portable($($arg),*)
                }
            }
            // The matrix products put SIMD instructions into the module anyway.
            #[cfg(target_arch = "wasm32")]
            {
                #[target_feature(enable = "simd128")]
                #[allow(clippy::too_many_arguments)]
                fn simd128($($arg: $type),*) {
                    portable($($arg),*)
                }
                simd128($($arg),*)
            }
            #[cfg(not(any(target_arch = "x86_64", target_arch = "wasm32")))]
            portable($($arg),*)
        }
    };
}
pub(crate) use for_each_instruction_set;

/// The sum of `term(a_i)`.
#[inline(always)]
pub(crate) fn sum(a: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, rest) = a.as_chunks::<LANES>();
    for block in blocks {
        for (lane, &a) in lanes.iter_mut().zip(block) {
            *lane += term(a);
        }
    }
    for (lane, &a) in lanes.iter_mut().zip(rest) {
        *lane += term(a);
    }
    lanes.iter().sum()
}

/// The sum of a_i `term(b_i)`.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * term(b);
        }
    }
    for (lane, (&a, &b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += a * term(b);
    }
    lanes.iter().sum()
}

/// 1 / (1 + e^-u), within 3e-7 of the value.
#[inline(always)]
pub(crate) fn sigmoid(u: f32) -> f32 {
    1.0 / (1.0 + exp(-u))
}

/// e^x within 2e-7 of the value, for x in [-87, 88]; what lies outside counts as the nearer end.
///
/// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2) / 2, and e^r by the minimax polynomial of
/// Cephes' `expf` (Moshier 1989). No branch and no call, so a loop over it becomes vector code.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts: the first has few bits, so that n times it is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let exp_r = p * r * r + r + 1.0;
    // The bits of the float 2^n: the exponent is all there is.
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    exp_r * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_of_the_f64_function() {
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2e-7, "e^{x}: relative error {error}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(f32::INFINITY) > 1e38);
    }

    #[test]
    fn sums_count_every_value_once() {
        let a: Vec<f32> = (0..53).map(|i| i as f32).collect();
        for n in 0..a.len() {
            let n_f = n as f32;
            assert_eq!(sum(&a[..n], |x| x), n_f * (n_f - 1.0).max(0.0) / 2.0);
            let squares = n_f * (n_f - 1.0) * (2.0 * n_f - 1.0) / 6.0;
            assert_eq!(dot(&a[..n], &a[..n], |x| x), squares.round());
        }
    }
}
