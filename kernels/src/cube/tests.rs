//! Every kernel against its plain twin on the CPU, on whatever adapter this machine has.

use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{
    Around, COEFFICIENTS, Resident, ResidentShape, Shifts, Shortcut, plain,
    testing::{distance, random, values},
};

fn gpu() -> Device {
    Device::wgpu(Default::default())
}

/// Runs a test as on a GPU, then as on software.
fn in_both_styles(test: impl Fn()) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for software in [false, true] {
        crate::on_software(software);
        test();
    }
}

/// The same random tensor on both devices.
fn pair<const D: usize>(seed: u64, shape: [usize; D]) -> [Tensor<D>; 2] {
    let numbers = random(seed, shape.iter().product());
    [gpu(), crate::cpu()]
        .map(|device| Tensor::from_data(TensorData::new(numbers.clone(), shape), &device))
}

fn indices(rows: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(rows.to_vec(), [rows.len()]), device)
}

#[track_caller]
fn assert_near(own: Tensor<4>, twin: Tensor<4>, what: &str) {
    assert_eq!(own.dims(), twin.dims(), "{what}");
    let error = distance(&values(own), &values(twin));
    assert!(error < 1e-5, "{what}: {error}");
}

struct Case {
    images: usize,
    channels: [usize; 2],
    size: usize,
    kernel: usize,
    around: fn(&mut Around),
    shifts: bool,
    residual: bool,
    shortcut: Option<[usize; 2]>,
}

fn convolution(case: Case) {
    let Case {
        images,
        channels: [channels_in, channels_out],
        size,
        kernel,
        ..
    } = case;
    let mut around = Around::default();
    (case.around)(&mut around);
    let stored = channels_in / around.fold.pow(2);
    let batch = images * around.repeat;
    let x = pair(
        1,
        [
            images,
            stored,
            size * around.fold / around.upsample,
            size * around.fold / around.upsample,
        ],
    );
    let weight = pair(2, [channels_out, channels_in, kernel, kernel]);
    let bias = pair(3, [channels_out]);
    let out = (size - 1) / around.stride + 1;
    let table = pair(4, [5, 2 * channels_out + 3]);
    let residual = pair(5, [batch, channels_out, out, out]);
    let shortcut = case.shortcut.map(|[a, b]| {
        (
            pair(6, [batch, a, out, out]),
            (b > 0).then(|| pair(7, [batch, b, out, out])),
            pair(8, [channels_out, a + b, 1, 1]),
        )
    });
    let [own, twin] = [0, 1].map(|i| {
        let mut around = around.clone();
        let rows: Vec<i32> = (0..batch as i32).map(|i| (3 * i + 1) % 5).collect();
        around.shifts = case.shifts.then(|| Shifts {
            table: table[i].clone(),
            rows: Some(indices(&rows, &table[i].device())),
            first: 2,
        });
        around.residual = case.residual.then(|| residual[i].clone());
        around.shortcut = shortcut.as_ref().map(|(x, concat, weight)| Shortcut {
            x: x[i].clone(),
            concat: concat.as_ref().map(|c| c[i].clone()),
            weight: weight[i].clone(),
        });
        (x[i].clone(), weight[i].clone(), bias[i].clone(), around)
    });
    let (x, w, b, around) = own;
    assert!(
        super::conv2d(&x, &w, Some(&b), &around).is_some(),
        "left to Burn"
    );
    let resident = crate::resident_weight(w, around.stride);
    let own = crate::conv2d_around(x, resident, Some(b), around);
    let (x, w, b, around) = twin;
    let twin = plain::conv2d_around(x, w, Some(b), around);
    assert_near(
        own,
        twin,
        &format!("{channels_in} to {channels_out} channels at {size}, kernel {kernel}"),
    );
}

const PLAIN: Case = Case {
    images: 1,
    channels: [64, 64],
    size: 14,
    kernel: 3,
    around: |_| (),
    shifts: false,
    residual: false,
    shortcut: None,
};

#[test]
fn conv2d_equals_its_plain_twin() {
    in_both_styles(|| {
        for size in [7, 14, 28] {
            for channels in [[64, 64], [8, 16], [12, 4], [5, 8]] {
                for kernel in [1, 3] {
                    convolution(Case {
                        channels,
                        size,
                        kernel,
                        ..PLAIN
                    });
                }
            }
        }
        convolution(Case {
            images: 3,
            channels: [128, 64],
            ..PLAIN
        });
    });
}

#[test]
fn what_surrounds_a_convolution_equals_its_plain_twin() {
    in_both_styles(|| {
        for size in [7, 14, 28] {
            convolution(Case {
                images: 2,
                size,
                shifts: true,
                residual: true,
                ..PLAIN
            });
            convolution(Case {
                images: 2,
                size,
                shortcut: Some([64, 0]),
                ..PLAIN
            });
            convolution(Case {
                images: 2,
                size,
                channels: [16, 8],
                shortcut: Some([13, 24]),
                ..PLAIN
            });
            if size > 7 {
                convolution(Case {
                    size,
                    around: |a| a.stride = 2,
                    ..PLAIN
                });
                convolution(Case {
                    size,
                    around: |a| a.upsample = 2,
                    ..PLAIN
                });
            }
        }
        for size in [7, 14] {
            convolution(Case {
                images: 2,
                channels: [4, 32],
                size,
                around: |a| (a.fold, a.repeat) = (2, 2),
                shifts: true,
                ..PLAIN
            });
            convolution(Case {
                images: 2,
                channels: [32, 4],
                size,
                around: |a| a.unfold = 2,
                ..PLAIN
            });
        }
        convolution(Case {
            channels: [16, 32],
            size: 7,
            around: |a| a.fold = 4,
            ..PLAIN
        });
        convolution(Case {
            channels: [32, 16],
            size: 7,
            around: |a| a.unfold = 4,
            ..PLAIN
        });
    });
}

#[test]
fn group_norm_silu_equals_its_plain_twin() {
    in_both_styles(|| {
        for (channels, size, groups) in [
            ([64, 0], 14, 8),
            ([64, 64], 7, 8),
            ([8, 40], 5, 2),
            ([3, 0], 28, 1),
        ] {
            for activate in [true, false] {
                let a = pair(1, [2, channels[0], size, size]);
                let b = (channels[1] > 0).then(|| pair(2, [2, channels[1], size, size]));
                let gamma = pair(3, [channels[0] + channels[1]]);
                let beta = pair(4, [channels[0] + channels[1]]);
                let [own, twin] = [crate::concat_group_norm_silu, plain::concat_group_norm_silu];
                let run = |function: fn(_, _, _, _, _, _, _) -> Tensor<4>, i: usize| {
                    function(
                        a[i].clone() * 3.0 + 2.0,
                        b.as_ref().map(|b| b[i].clone()),
                        gamma[i].clone(),
                        beta[i].clone(),
                        groups,
                        1e-5,
                        activate,
                    )
                };
                assert_near(
                    run(own, 0),
                    run(twin, 1),
                    &format!("{channels:?} at {size}, {groups} groups"),
                );
            }
        }
    });
}

#[test]
fn attention_equals_its_plain_twin() {
    in_both_styles(|| {
        for (images, channels, size) in
            [(1, 64, 7), (2, 128, 7), (1, 64, 14), (2, 8, 28), (3, 5, 7)]
        {
            let x = pair(1, [images, channels, size, size]);
            let qkv = pair(2, [images, 3 * channels, size, size]);
            let weight = pair(3, [channels, channels, 1, 1]);
            let bias = pair(4, [channels]);
            let part = |i: usize| {
                (
                    x[i].clone(),
                    qkv[i].clone(),
                    weight[i].clone(),
                    bias[i].clone(),
                )
            };
            let (x, qkv, weight, bias) = part(0);
            let own = super::attention(&x, &qkv, &weight, &bias).expect("left to Burn");
            let (x, qkv, weight, bias) = part(1);
            assert_near(
                own,
                plain::attention(x, qkv, weight, bias),
                &format!("{channels} at {size}"),
            );
        }
    });
}

#[test]
fn reverse_step_equals_its_plain_twin_and_can_be_recorded() {
    for (images, guided) in [(1, false), (3, false), (2, true)] {
        let shape = ResidentShape {
            images,
            size: 28,
            guided,
            steps: 6,
            channels: 3,
            noise_rows: 4,
            log_rows: 5,
        };
        let halves = 1 + usize::from(guided);
        let prediction = pair(1, [halves * images, 1, 28, 28]);
        let state = Resident::new(shape, &gpu()).expect("a device that replays");
        let coefficients = pair(2, [6, COEFFICIENTS]);
        let noise = pair(3, [4, images, 28, 28]);
        let x = pair(4, [images, 1, 28, 28]);
        let previous = pair(5, [images, 1, 28, 28]);
        let rows: Vec<i32> = (0..halves * images)
            .map(|i| (i / images * 6) as i32)
            .collect();
        let restart = || {
            crate::assign(&state.coefficients, coefficients[0].clone());
            crate::assign(&state.noise, noise[0].clone());
            crate::assign(&state.x, x[0].clone());
            crate::assign(&state.previous, previous[0].clone());
            crate::assign_integers(&state.rows, indices(&rows, &gpu()));
        };
        let recording = crate::Recording::of(&gpu(), || {
            crate::reverse_step(prediction[0].clone(), &state);
        })
        .expect("a device that replays");
        restart();
        let mut twin = Resident {
            x: x[1].clone(),
            previous: previous[1].clone(),
            rows: indices(&rows, &crate::cpu()),
            coefficients: coefficients[1].clone(),
            shifts: Tensor::zeros([halves * 6, 3], &crate::cpu()),
            noise: noise[1].clone(),
            log: Tensor::zeros([5, 2 * images, 28, 28], &crate::cpu()),
        };
        for step in 0..6 {
            // SAFETY: all that was recorded is alive.
            unsafe { recording.replay() }.expect("a device that replays");
            let [next, pred_x_start, logged] = plain::reverse_step(prediction[1].clone(), &twin);
            let what = format!("{images} images, step {step}");
            assert_near(state.x.clone(), next.clone(), &what);
            assert_near(state.previous.clone(), pred_x_start.clone(), &what);
            let entry = crate::rows(&state.log, step % 5, 1).reshape([2 * images, 1, 28, 28]);
            assert_near(entry, logged, &what);
            twin.x = next;
            twin.previous = pred_x_start;
            twin.rows = twin.rows + 1;
        }
        let rows: Vec<i32> = state
            .rows
            .clone()
            .into_data()
            .try_to_vec()
            .expect("integers");
        let expected: Vec<i32> = (0..halves * images)
            .map(|i| (6 + i / images * 6) as i32)
            .collect();
        assert_eq!(rows, expected);
    }
}
