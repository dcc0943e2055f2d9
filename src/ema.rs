//! Averaged weights.

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::Tensor,
};

use crate::UNet;

/// Exponential moving average of the weights (Ho et al. 2020, appendix B, sample from it).
///
/// The average warms up: with n updates behind it the decay is min(decay, (1 + n) / (10 + n)), so
/// that it forgets the random start.
#[derive(Debug, Clone)]
pub struct Ema {
    average: UNet,
    decay: f64,
    updates: u64,
}

impl Ema {
    /// Starts from the model's present weights, with no update behind it.
    pub fn new(model: &UNet, decay: f64) -> Self {
        Self::resume(model.valid(), decay, 0)
    }

    /// Goes on from a saved average.
    pub fn resume(average: UNet, decay: f64, updates: u64) -> Self {
        Self {
            average,
            decay,
            updates,
        }
    }

    /// Moves the average towards the model: average = d average + (1 - d) model.
    pub fn update(&mut self, model: &UNet) {
        let n = self.updates as f64;
        let decay = self.decay.min((1.0 + n) / (10.0 + n));
        self.updates += 1;
        let mut collect = Collect(Vec::new());
        model.valid().visit(&mut collect);
        let mut blend = Blend {
            live: collect.0.into_iter(),
            decay,
        };
        self.average = self.average.clone().map(&mut blend);
    }

    /// The averaged network, without autodiff.
    pub fn model(&self) -> &UNet {
        &self.average
    }

    /// How many updates are behind it: with the average itself, all the state there is.
    pub fn updates(&self) -> u64 {
        self.updates
    }
}

/// Takes the parameters out of a module in visiting order, flattened.
struct Collect(Vec<Tensor<1>>);

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let elements = value.shape().num_elements();
        self.0.push(value.reshape([elements]));
    }
}

/// Blends parameters, in the same order, into a module of the same shape.
struct Blend {
    live: std::vec::IntoIter<Tensor<1>>,
    decay: f64,
}

impl ModuleMapper for Blend {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let live = self.live.next().expect("both are the same module");
        param.map(|average| {
            let live = live.reshape(average.shape());
            average * self.decay + live * (1.0 - self.decay)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UNetConfig;

    fn values(model: &UNet) -> Vec<f32> {
        let mut collect = Collect(Vec::new());
        model.visit(&mut collect);
        let values = collect.0.into_iter();
        values
            .flat_map(|t| t.into_data_as::<f32>().try_to_vec::<f32>().unwrap())
            .collect()
    }

    /// Against the closed form: for constant weights w after a start at s, the average is
    /// w + (s - w) * product of the decays.
    #[test]
    fn the_average_is_the_closed_form() {
        let device = kernels::cpu();
        let (start, live) = (
            UNetConfig::default().init(&device),
            UNetConfig::default().init(&device),
        );
        let mut ema = Ema::new(&start, 0.25);
        let mut product = 1.0;
        for n in 0..6 {
            ema.update(&live);
            product *= 0.25f64.min((1.0 + f64::from(n)) / (10.0 + f64::from(n)));
            let both = values(&start).into_iter().zip(values(&live));
            for ((s, w), average) in both.zip(values(ema.model())) {
                let expected = f64::from(w) + f64::from(s - w) * product;
                assert!((f64::from(average) - expected).abs() < 1e-6, "update {n}");
            }
        }
        assert_eq!(ema.updates(), 6);
    }
}
