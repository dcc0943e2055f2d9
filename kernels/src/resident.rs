//! What a walk from noise to image keeps on the device, so that a step needs nothing from the host.

#[cfg(feature = "cpu")]
use burn::tensor::DType;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Columns of [`Resident::coefficients`].
pub const COEFFICIENTS: usize = 9;

/// The state of a walk and its tables, in memory that never moves: a recorded step goes on reading
/// and writing it, whichever picture is computed.
///
/// Unlike other tensors these are overwritten in place, by [`assign`](crate::assign) and by
/// [`reverse_step`](crate::reverse_step). What is handed on to others is [`shown`](crate::shown).
#[derive(Debug)]
pub struct Resident {
    /// x_t, `[images, 1, height, width]`.
    pub x: Tensor<4>,
    /// The step before's clipped estimate of x_0, shaped like x.
    pub previous: Tensor<4>,
    /// The step that each image of the network's batch takes next, counted from 0. Where guidance
    /// is on, the batch holds every image twice, and the second half, which is asked without
    /// label, counts from the number of rows of `coefficients`.
    pub rows: Tensor<1, Int>,
    /// A row a step: 1 / sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t) / sqrt(alpha_bar_t), the weights
    /// of x_t, of the clipped estimate and of the step before's, that of the noise, the guidance
    /// scale, and the weights of the network's answer and of x_t in the predicted noise.
    pub coefficients: Tensor<2>,
    /// What is added to the network's channels, a row a step; without label below, where guided.
    pub shifts: Tensor<2>,
    /// z, `[rows, images, height, width]`; a step takes its own row modulo their number.
    pub noise: Tensor<4>,
    /// x_t, then the predicted noise, of the last steps: `[rows, 2 images, height, width]`, a step
    /// in its own row modulo their number.
    pub log: Tensor<4>,
}

/// The lengths of a [`Resident`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResidentShape {
    /// Images of the walk.
    pub images: usize,
    /// Height and width of an image.
    pub size: usize,
    /// Whether the network is asked with and without label.
    pub guided: bool,
    /// The most steps.
    pub steps: usize,
    /// Channels of all blocks.
    pub channels: usize,
    /// Rows of noise.
    pub noise_rows: usize,
    /// Rows of the log.
    pub log_rows: usize,
}

impl Resident {
    /// Memory for such a walk, all zeros.
    ///
    /// # Errors
    /// On a device that does not replay.
    pub fn new(shape: ResidentShape, device: &Device) -> Result<Self, String> {
        if !crate::replays(device) {
            return Err(crate::cannot_record(device));
        }
        let dims = shape.dims();
        Ok(Self {
            x: zeros(dims.image, device),
            previous: zeros(dims.image, device),
            rows: integer_zeros(dims.rows, device),
            coefficients: zeros(dims.coefficients, device),
            shifts: zeros(dims.shifts, device),
            noise: zeros(dims.noise, device),
            log: zeros(dims.log, device),
        })
    }

    /// Whether a prediction of this shape is one for each row, and all lengths are those of one walk.
    pub(crate) fn fits(&self, prediction: [usize; 4]) -> bool {
        let [images, _, size, _] = self.x.dims();
        let [rows] = self.rows.dims();
        let shape = ResidentShape {
            images,
            size,
            guided: rows > images,
            steps: self.coefficients.dims()[0],
            channels: self.shifts.dims()[1],
            noise_rows: self.noise.dims()[0],
            log_rows: self.log.dims()[0],
        };
        let dims = Dims {
            image: self.x.dims(),
            rows,
            coefficients: self.coefficients.dims(),
            shifts: self.shifts.dims(),
            noise: self.noise.dims(),
            log: self.log.dims(),
        };
        dims == shape.dims()
            && self.previous.dims() == dims.image
            && prediction == [rows, 1, size, size]
            && shape.noise_rows > 0
            && shape.log_rows > 0
    }
}

/// What each tensor of a [`Resident`] measures.
#[derive(PartialEq, Eq)]
struct Dims {
    image: [usize; 4],
    rows: usize,
    coefficients: [usize; 2],
    shifts: [usize; 2],
    noise: [usize; 4],
    log: [usize; 4],
}

impl ResidentShape {
    fn dims(&self) -> Dims {
        let Self {
            images,
            size,
            guided,
            steps,
            channels,
            noise_rows,
            log_rows,
        } = *self;
        let halves = 1 + usize::from(guided);
        Dims {
            image: [images, 1, size, size],
            rows: halves * images,
            coefficients: [steps, COEFFICIENTS],
            shifts: [halves * steps, channels],
            noise: [noise_rows, images, size, size],
            log: [log_rows, 2 * images, size, size],
        }
    }
}

/// Zeros in the order of their indices, in memory that can be overwritten: on some devices Burn leaves room
/// at the end of each row, and on the CPU it shares what it takes for constant.
fn zeros<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    if crate::cpu::computes_on(device, DType::F32) {
        return crate::cpu::zeros(shape);
    }
    let zeros = Tensor::zeros(shape, device);
    #[cfg(feature = "cubecl")]
    return crate::cube::in_order(zeros);
    #[cfg(not(feature = "cubecl"))]
    zeros
}

fn integer_zeros(length: usize, device: &Device) -> Tensor<1, Int> {
    #[cfg(feature = "cpu")]
    if crate::cpu::computes_on(device, DType::F32) {
        return crate::cpu::integer_zeros(length);
    }
    Tensor::from_data(TensorData::zeros::<i32, _>([length]), device)
}
