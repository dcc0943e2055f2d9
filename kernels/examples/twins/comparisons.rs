//! The comparisons. Each reads back what the kernel made, and waits for it: a browser cannot block.

use std::{
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use cubecl::logging::{LaunchObservation, LaunchObserver};
use kernels::{Around, COEFFICIENTS, Recording, Resident, ResidentShape, Shifts, Shortcut, plain};

/// What is compared with the twins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The kernels for GPUs, cut for one.
    Gpu,
    /// The same, cut for a GPU that is software.
    Software,
    /// The CPU's own operations, recorded.
    Cpu,
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "gpu" => Ok(Self::Gpu),
            "software" => Ok(Self::Software),
            "cpu" => Ok(Self::Cpu),
            _ => Err(format!("compare what: gpu, software or cpu? Not {word}")),
        }
    }
}

/// Runs all of them, and reports each: the kernel, the case, and how far the kernel is off, see
/// [`distance`].
///
/// # Errors
/// Where there is no GPU, or a kernel leaves a case to others.
pub(crate) async fn all(
    subject: Subject,
    report: impl FnMut(&str, &str, f32),
) -> Result<(), String> {
    kernels::on_software(subject == Subject::Software);
    kernels::cpu().seed(1);
    let device = match subject {
        Subject::Cpu => kernels::cpu(),
        _ => {
            let gpu = Device::wgpu_options().init_async().await;
            gpu.map_err(|error| error.to_string())?
        }
    };
    let mut comparisons = Comparisons {
        subject,
        device,
        report,
    };
    comparisons.conv2d().await?;
    comparisons.conv2d_around().await?;
    comparisons.group_norm_silu().await?;
    comparisons.attention().await?;
    comparisons.linear().await?;
    comparisons.reverse_step().await
}

struct Comparisons<Report> {
    subject: Subject,
    device: Device,
    report: Report,
}

/// The same tensor on the device and on the CPU.
type Pair<const D: usize> = [Tensor<D>; 2];

/// Which line of the table of shifts an image takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// The one that a number names.
    Named,
    /// Its own.
    Own,
    /// The only one.
    Only,
}

/// A convolution and what surrounds it.
struct Convolution {
    images: usize,
    channels: [usize; 2],
    /// Of the image that the kernel slides over.
    size: usize,
    kernel: usize,
    around: fn(&mut Around),
    shifts: Option<Line>,
    residual: bool,
    shortcut: Option<[usize; 2]>,
}

const PLAIN: Convolution = Convolution {
    images: 1,
    channels: [64, 64],
    size: 14,
    kernel: 3,
    around: |_| (),
    shifts: None,
    residual: false,
    shortcut: None,
};

impl<Report: FnMut(&str, &str, f32)> Comparisons<Report> {
    async fn conv2d(&mut self) -> Result<(), String> {
        for size in [7, 14, 28] {
            for channels in [[64, 64], [8, 16], [12, 4], [5, 8]] {
                for kernel in [1, 3] {
                    let case = Convolution {
                        channels,
                        size,
                        kernel,
                        ..PLAIN
                    };
                    self.convolution("conv2d", case).await?;
                }
            }
        }
        for case in [
            Convolution {
                images: 3,
                channels: [128, 64],
                ..PLAIN
            },
            // More groups of threads than fit along one axis turn its weight over.
            Convolution {
                channels: [1024, 512],
                size: 7,
                ..PLAIN
            },
        ] {
            self.convolution("conv2d", case).await?;
        }
        Ok(())
    }

    async fn conv2d_around(&mut self) -> Result<(), String> {
        let mut cases = Vec::new();
        for size in [7, 14, 28] {
            cases.extend([
                Convolution {
                    images: 2,
                    size,
                    shifts: Some(Line::Named),
                    residual: true,
                    ..PLAIN
                },
                Convolution {
                    images: 2,
                    size,
                    residual: true,
                    ..PLAIN
                },
                Convolution {
                    images: 2,
                    size,
                    shortcut: Some([64, 0]),
                    ..PLAIN
                },
                Convolution {
                    images: 2,
                    size,
                    channels: [16, 8],
                    shortcut: Some([13, 24]),
                    ..PLAIN
                },
            ]);
        }
        for size in [14, 28] {
            cases.extend([
                Convolution {
                    size,
                    around: |a| a.stride = 2,
                    ..PLAIN
                },
                Convolution {
                    size,
                    around: |a| a.upsample = 2,
                    ..PLAIN
                },
            ]);
        }
        for size in [7, 14] {
            cases.extend([
                Convolution {
                    images: 2,
                    channels: [4, 32],
                    size,
                    around: |a| (a.fold, a.repeat) = (2, 2),
                    shifts: Some(Line::Named),
                    ..PLAIN
                },
                Convolution {
                    images: 2,
                    channels: [32, 4],
                    size,
                    around: |a| a.unfold = 2,
                    ..PLAIN
                },
            ]);
        }
        for line in [Line::Own, Line::Only] {
            cases.push(Convolution {
                images: 3,
                shifts: Some(line),
                ..PLAIN
            });
        }
        cases.extend([
            Convolution {
                channels: [16, 32],
                size: 7,
                around: |a| a.fold = 4,
                ..PLAIN
            },
            Convolution {
                channels: [32, 16],
                size: 7,
                around: |a| a.unfold = 4,
                ..PLAIN
            },
        ]);
        for case in cases {
            self.convolution("conv2d_around", case).await?;
        }
        Ok(())
    }

    async fn convolution(&mut self, name: &str, case: Convolution) -> Result<(), String> {
        let mut around = Around::default();
        (case.around)(&mut around);
        let title = case.title(&around);
        let Convolution {
            images,
            channels: [channels_in, channels_out],
            size,
            kernel,
            ..
        } = case;
        let batch = images * around.repeat;
        let stored = channels_in / around.fold.pow(2);
        let side = size * around.fold / around.upsample;
        let out = (size - 1) / around.stride + 1;
        let stride = around.stride;
        let [x, twin_x] = self.pair([images, stored, side, side]).await?;
        let weight = self.pair([channels_out, channels_in, kernel, kernel]);
        let [weight, twin_weight] = resident(weight.await?, stride);
        let [bias, twin_bias] = self.pair([channels_out]).await?;
        let mut arounds = [around.clone(), around];
        if let Some(line) = case.shifts {
            let rows: Vec<i32> = (0..batch as i32).map(|i| (3 * i + 1) % 5).collect();
            let lines = match line {
                Line::Named => 5,
                Line::Own => batch,
                Line::Only => 1,
            };
            let named = line == Line::Named;
            let table = self.pair([lines, 2 * channels_out + 3]).await?;
            for (around, table) in arounds.iter_mut().zip(table) {
                around.shifts = Some(Shifts {
                    rows: named.then(|| integers(&rows, &table.device())),
                    table,
                    first: 2,
                });
            }
        }
        if case.residual {
            let residual = self.pair([batch, channels_out, out, out]).await?;
            for (around, residual) in arounds.iter_mut().zip(residual) {
                around.residual = Some(residual);
            }
        }
        if let Some([a, b]) = case.shortcut {
            let x = self.pair([batch, a, out, out]).await?;
            let concat = match b {
                0 => [None, None],
                b => self.pair([batch, b, out, out]).await?.map(Some),
            };
            let weight = resident(self.pair([channels_out, a + b, 1, 1]).await?, 1);
            let shortcuts = x.into_iter().zip(concat).zip(weight);
            for (around, ((x, concat), weight)) in arounds.iter_mut().zip(shortcuts) {
                around.shortcut = Some(Shortcut { x, concat, weight });
            }
        }
        let [around, twin_around] = arounds;
        let own = self.made("conv2d", || {
            let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
            kernels::conv2d_around(x, weight, Some(bias), around.clone())
        })?;
        let twin = plain::conv2d_around(twin_x, twin_weight, Some(twin_bias), twin_around);
        self.compare(name, &title, own, twin).await
    }

    async fn group_norm_silu(&mut self) -> Result<(), String> {
        for (channels, size, groups) in [
            ([64, 0], 14, 8),
            ([64, 64], 7, 8),
            ([8, 40], 5, 2),
            ([3, 0], 28, 1),
        ] {
            for activate in [true, false] {
                let title = format!("{channels:?} channels at {size}, {groups} groups, {activate}");
                let [a, twin_a] = self.pair([2, channels[0], size, size]).await?;
                let [b, twin_b] = match channels[1] {
                    0 => [None, None],
                    second => self.pair([2, second, size, size]).await?.map(Some),
                };
                // A mean that is not 0 and a variance that is not 1 show whether both are taken off.
                let [a, twin_a] = [a, twin_a].map(|a| a * 3.0 + 2.0);
                let both = channels[0] + channels[1];
                let [gamma, twin_gamma] = self.pair([both]).await?;
                let [beta, twin_beta] = self.pair([both]).await?;
                let own = self.made("group_norm_silu", || {
                    let (a, b, gamma, beta) = (a.clone(), b.clone(), gamma.clone(), beta.clone());
                    kernels::concat_group_norm_silu(a, b, gamma, beta, groups, 1e-5, activate)
                })?;
                let twin = plain::concat_group_norm_silu(
                    twin_a, twin_b, twin_gamma, twin_beta, groups, 1e-5, activate,
                );
                self.compare("group_norm_silu", &title, own, twin).await?;
            }
        }
        Ok(())
    }

    async fn attention(&mut self) -> Result<(), String> {
        for (images, channels, size) in
            [(1, 64, 7), (2, 128, 7), (1, 64, 14), (2, 8, 28), (3, 5, 7)]
        {
            let title = format!("{images} images, {channels} channels at {size}");
            let [x, twin_x] = self.pair([images, channels, size, size]).await?;
            let [qkv, twin_qkv] = self.pair([images, 3 * channels, size, size]).await?;
            let weight = self.pair([channels, channels, 1, 1]).await?;
            let [weight, twin_weight] = resident(weight, 1);
            let [bias, twin_bias] = self.pair([channels]).await?;
            let own = self.made("attention", || {
                kernels::attention(x.clone(), qkv.clone(), weight.clone(), bias.clone())
            })?;
            let twin = plain::attention(twin_x, twin_qkv, twin_weight, twin_bias);
            self.compare("attention", &title, own, twin).await?;
        }
        Ok(())
    }

    async fn linear(&mut self) -> Result<(), String> {
        for (rows, d_in, d_out, bias_rows, activate) in [
            (1000, 64, 256, 1, true),
            (1, 256, 704, 1, false),
            (7, 5, 6, 7, true),
            (8, 1, 1, 1, true),
            (13, 33, 130, 13, false),
        ] {
            let title = format!("{rows} rows of {d_in} to {d_out}, {activate}");
            let [x, twin_x] = self.pair([rows, d_in]).await?;
            let [weight, twin_weight] = self.pair([d_in, d_out]).await?;
            let [bias, twin_bias] = self.pair([bias_rows, d_out]).await?;
            let own = self.made("linear", || {
                kernels::linear(x.clone(), weight.clone(), bias.clone(), activate)
            })?;
            let twin = plain::linear(twin_x, twin_weight, twin_bias, activate);
            self.compare("linear", &title, own, twin).await?;
        }
        Ok(())
    }

    /// Recorded, and replayed step by step.
    async fn reverse_step(&mut self) -> Result<(), String> {
        const STEPS: usize = 6;
        for (images, guided) in [(1, false), (3, false), (2, true)] {
            let shape = ResidentShape {
                images,
                size: 28,
                guided,
                steps: STEPS,
                channels: 3,
                noise_rows: 4,
                log_rows: 5,
            };
            let halves = 1 + usize::from(guided);
            let image = [images, 1, 28, 28];
            let [prediction, twin_prediction] = self.pair([halves * images, 1, 28, 28]).await?;
            let [coefficients, twin_coefficients] = self.pair([STEPS, COEFFICIENTS]).await?;
            let [noise, twin_noise] = self.pair([4, images, 28, 28]).await?;
            let [x, twin_x] = self.pair(image).await?;
            let [previous, twin_previous] = self.pair(image).await?;
            let rows = |step: usize| -> Vec<i32> {
                let row = |i: usize| (step + i / images * STEPS) as i32;
                (0..halves * images).map(row).collect()
            };
            let state = Resident::new(shape, &self.device)?;
            let recording = Recording::of(&self.device, 1, || {
                // SAFETY: nobody else has the state.
                unsafe { kernels::reverse_step(prediction.clone(), &state) };
            })?;
            // Recording has taken steps in earnest.
            // SAFETY: as above.
            unsafe {
                kernels::assign(&state.coefficients, coefficients);
                kernels::assign(&state.noise, noise);
                kernels::assign(&state.x, x);
                kernels::assign(&state.previous, previous);
                kernels::assign_integers(&state.rows, integers(&rows(0), &self.device));
            }
            let mut twin = Resident {
                x: twin_x,
                previous: twin_previous,
                rows: integers(&rows(0), &kernels::cpu()),
                coefficients: twin_coefficients,
                shifts: Tensor::zeros([halves * STEPS, 3], &kernels::cpu()),
                noise: twin_noise,
                log: Tensor::zeros([5, 2 * images, 28, 28], &kernels::cpu()),
            };
            for step in 0..STEPS {
                // SAFETY: all that was recorded is alive, and nobody is reading it.
                unsafe { self.replay(&recording) }?;
                let [next, pred_x_start, logged] =
                    plain::reverse_step(twin_prediction.clone(), &twin);
                let entry = kernels::rows(&state.log, step % 5, 1);
                let entry = entry.reshape([2 * images, 1, 28, 28]);
                let title =
                    |what: &str| format!("{images} images, guided {guided}, step {step}: {what}");
                for (what, own, twin) in [
                    ("x", state.x.clone(), next.clone()),
                    ("estimate", state.previous.clone(), pred_x_start.clone()),
                    ("log", entry, logged),
                ] {
                    self.compare("reverse_step", &title(what), own, twin)
                        .await?;
                }
                twin.x = next;
                twin.previous = pred_x_start;
                twin.rows = twin.rows + 1;
            }
            let counted = state.rows.clone().into_data_async().await;
            let counted = counted.map_err(|error| error.to_string())?;
            let counted = counted.try_to_vec::<i32>().unwrap_or_default();
            if counted != rows(STEPS) {
                return Err(format!("reverse_step counts {counted:?}"));
            }
            // An estimate that is no number is not clipped to one.
            let mut table = values(twin.coefficients).await?;
            table
                .iter_mut()
                .step_by(COEFFICIENTS)
                .for_each(|a| *a = f32::NAN);
            let table = TensorData::new(table, [STEPS, COEFFICIENTS]);
            // SAFETY: as above.
            unsafe {
                kernels::assign(&state.coefficients, Tensor::from_data(table, &self.device));
                kernels::assign_integers(&state.rows, integers(&rows(0), &self.device));
                self.replay(&recording)?;
            }
            let next = values(state.x.clone()).await?;
            if !next.iter().all(|value| value.is_nan()) {
                return Err(
                    "reverse_step makes a garment of an estimate that is no number".to_owned(),
                );
            }
        }
        Ok(())
    }

    /// What our kernel of this name makes: on a GPU in one launch, which is what it is for, and where another
    /// does the work, nothing of ours is compared; on the CPU the second time that it is asked to.
    fn made<const D: usize>(
        &self,
        kernel: &str,
        work: impl Fn() -> Tensor<D>,
    ) -> Result<Tensor<D>, String> {
        if self.subject != Subject::Cpu {
            return in_one_launch(kernel, work);
        }
        let mut made = None;
        let recording = Recording::of(&self.device, 1, || made = Some(work()))?;
        let made = made.ok_or("nothing was recorded")?;
        // SAFETY: `work` still holds what is read, and nobody is reading the result.
        let replayed = unsafe {
            kernels::assign(&made, made.zeros_like());
            self.replay(&recording)
        };
        replayed.map_err(|error| format!("{kernel}: {error}"))?;
        Ok(made)
    }

    /// Replays, on the CPU without a single allocation.
    ///
    /// # Safety
    /// As [`Recording::replay`].
    unsafe fn replay(&self, recording: &Recording) -> Result<(), String> {
        let before = crate::allocations();
        // SAFETY: the caller's promise.
        unsafe { recording.replay() }?;
        match crate::allocations() - before {
            count if count > 0 && self.subject == Subject::Cpu => {
                Err(format!("{count} allocations in a replay"))
            }
            _ => Ok(()),
        }
    }

    /// Random numbers, normally distributed.
    async fn pair<const D: usize>(&self, shape: [usize; D]) -> Result<Pair<D>, String> {
        let distribution = Distribution::Normal(0.0, 1.0);
        let twin = Tensor::random(shape, distribution, &kernels::cpu());
        let data = twin.clone().into_data_async().await;
        let data = data.map_err(|error| error.to_string())?;
        Ok([Tensor::from_data(data, &self.device), twin])
    }

    async fn compare<const D: usize>(
        &mut self,
        kernel: &str,
        case: &str,
        own: Tensor<D>,
        twin: Tensor<D>,
    ) -> Result<(), String> {
        if own.dims() != twin.dims() {
            let (own, twin) = (own.dims(), twin.dims());
            return Err(format!("{kernel}, {case}: {own:?}, and the twin {twin:?}"));
        }
        let off = distance(&values(own).await?, &values(twin).await?);
        (self.report)(kernel, case, off);
        Ok(())
    }
}

impl Convolution {
    fn title(&self, around: &Around) -> String {
        let [channels_in, channels_out] = self.channels;
        let mut title = format!(
            "{} images, {channels_in} to {channels_out} channels at {}, kernel {}",
            self.images, self.size, self.kernel
        );
        let mut add = |what: String| title = format!("{title}, {what}");
        for (what, times) in [
            ("repeat", around.repeat),
            ("stride", around.stride),
            ("upsample", around.upsample),
            ("fold", around.fold),
            ("unfold", around.unfold),
        ] {
            if times > 1 {
                add(format!("{what} {times}"));
            }
        }
        if let Some(line) = self.shifts {
            add(format!("shifts, a line {line:?}"));
        }
        if self.residual {
            add("residual".to_owned());
        }
        if let Some(channels) = self.shortcut {
            add(format!("shortcut of {channels:?}"));
        }
        title
    }
}

/// The launches of a piece of work.
#[derive(Default)]
struct Launches(Mutex<Vec<&'static str>>);

impl LaunchObserver for Launches {
    fn launched(&self, kernel: &'static str) {
        let mut launches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        launches.push(kernel);
    }
}

/// What our kernel of this name makes, and nobody else.
fn in_one_launch<const D: usize>(
    kernel: &str,
    work: impl FnOnce() -> Tensor<D>,
) -> Result<Tensor<D>, String> {
    let launches = Arc::new(Launches::default());
    let watching = LaunchObservation::new(launches.clone());
    let y = work();
    drop(watching);
    let launches = launches.0.lock().unwrap_or_else(PoisonError::into_inner);
    match launches[..] {
        [name]
            if name.starts_with("kernels::cube::") && name.contains(&format!("::{kernel}::")) =>
        {
            Ok(y)
        }
        _ => Err(format!("{kernel} should be one launch, not {launches:?}")),
    }
}

/// The weight as our kernels read it.
fn resident([own, twin]: Pair<4>, stride: usize) -> Pair<4> {
    [kernels::resident_weight(own, stride), twin]
}

fn integers(rows: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(rows.to_vec(), [rows.len()]), device)
}

async fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, String> {
    let data = tensor.into_data_async().await;
    let data = data.map_err(|error| error.to_string())?;
    data.try_to_vec().map_err(|error| format!("{error:?}"))
}

/// The largest difference, relative to the largest value; but to 1, the size of the inputs, where
/// sums cancel to less.
fn distance(own: &[f32], twin: &[f32]) -> f32 {
    let scale = twin.iter().fold(1.0f32, |max, twin| max.max(twin.abs()));
    let differences = own.iter().zip(twin).map(|(own, twin)| (own - twin).abs());
    // `max` would drop a NaN.
    differences.fold(0.0f32, |max, d| if d <= max { max } else { d }) / scale
}
