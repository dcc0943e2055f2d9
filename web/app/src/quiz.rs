//! Real or sampled? Twenty pictures in an order nobody knows, and what guessing would give.

use fashion_ddpm::noise::gaussian;

/// Pictures of each kind in a round.
pub const EACH: usize = 10;

/// Pictures in a round.
pub const ALL: usize = 2 * EACH;

/// Where a picture comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A photograph of the test set, by its index among those shipped.
    Real(usize),
    /// Sampled for this round, by its index.
    Sampled(usize),
}

/// A round: its pictures in order, and what was said of each.
#[derive(Debug, Clone)]
pub struct Round {
    /// Epoch of the weights that sampled.
    pub epoch: u32,
    pictures: Vec<Origin>,
    answers: Vec<Option<bool>>,
}

impl Round {
    /// [`EACH`] sampled pictures and as many real ones, any of `real`, in an order that the seed
    /// makes. Fewer real ones where there are no more.
    pub fn new(epoch: u32, real: usize, seed: u32) -> Self {
        let mut order = Order::new(seed);
        let chosen = order.shuffle((0..real).collect());
        let mut pictures: Vec<Origin> = chosen.into_iter().take(EACH).map(Origin::Real).collect();
        pictures.extend((0..EACH).map(Origin::Sampled));
        let pictures = order.shuffle(pictures);
        let answers = vec![None; pictures.len()];
        Self {
            epoch,
            pictures,
            answers,
        }
    }

    /// The pictures in their order.
    pub fn pictures(&self) -> &[Origin] {
        &self.pictures
    }

    /// Somebody says whether a picture is real.
    pub fn answer(&mut self, picture: usize, real: bool) {
        if let Some(answer) = self.answers.get_mut(picture) {
            *answer = Some(real);
        }
    }

    /// What was said of a picture.
    pub fn said(&self, picture: usize) -> Option<bool> {
        self.answers.get(picture).copied().flatten()
    }

    /// Whether the answer to a picture is right; `None` without one.
    pub fn is_right(&self, picture: usize) -> Option<bool> {
        let real = matches!(self.pictures.get(picture)?, Origin::Real(_));
        Some(self.said(picture)? == real)
    }

    /// How many are still to be judged.
    pub fn left(&self) -> usize {
        self.answers
            .iter()
            .filter(|answer| answer.is_none())
            .count()
    }

    /// How many were judged rightly.
    pub fn score(&self) -> usize {
        let right = |picture: &usize| self.is_right(*picture) == Some(true);
        (0..self.pictures.len()).filter(right).count()
    }
}

/// An order by lot: standard normal numbers, sorted.
struct Order {
    seed: u32,
    drawn: u32,
}

impl Order {
    fn new(seed: u32) -> Self {
        Self { seed, drawn: 0 }
    }

    fn shuffle<T>(&mut self, things: Vec<T>) -> Vec<T> {
        // Branch u32::MAX: no branch of a picture has these numbers.
        let lots = gaussian(self.seed, self.drawn, u32::MAX, 0);
        self.drawn += 1;
        let mut drawn: Vec<(f32, T)> = Vec::new();
        for (lot, thing) in lots.into_iter().zip(things) {
            let place = drawn.partition_point(|before| before.0.total_cmp(&lot).is_le());
            drawn.insert(place, (lot, thing));
        }
        drawn.into_iter().map(|(_, thing)| thing).collect()
    }
}

/// The probability that `n` tosses of a coin give at least `k` right answers.
pub fn by_chance(k: usize, n: usize) -> f64 {
    // C(n, i) / 2^n, one from the one before.
    let mut probability = 0.5f64.powi(n as i32);
    let mut sum = 0.0;
    for i in 0..=n {
        if i >= k {
            sum += probability;
        }
        probability *= (n - i) as f64 / (i + 1) as f64;
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_has_ten_of_each_once_in_any_order() {
        let round = Round::new(12, 200, 7);
        let mut real: Vec<usize> = Vec::new();
        let mut sampled: Vec<usize> = Vec::new();
        for picture in round.pictures() {
            match picture {
                Origin::Real(i) => real.push(*i),
                Origin::Sampled(i) => sampled.push(*i),
            }
        }
        real.sort_unstable();
        real.dedup();
        assert!(real.len() == EACH && real.iter().all(|i| *i < 200));
        assert_ne!(sampled, (0..EACH).collect::<Vec<_>>(), "an order");
        sampled.sort_unstable();
        assert_eq!(sampled, (0..EACH).collect::<Vec<_>>());
        assert_ne!(round.pictures(), Round::new(12, 200, 8).pictures());
        assert_eq!(Round::new(1, 3, 7).pictures().len(), EACH + 3);
    }

    /// Each picture is as often real as sampled, whatever its place: of 400 rounds half, four
    /// standard errors are 40.
    #[test]
    fn no_place_tells() {
        let mut real = [0; ALL];
        for seed in 0..400 {
            let round = Round::new(12, 200, seed);
            for (place, picture) in round.pictures().iter().enumerate() {
                real[place] += usize::from(matches!(picture, Origin::Real(_)));
            }
        }
        assert!(
            real.iter().all(|count| (160..=240).contains(count)),
            "{real:?}"
        );
    }

    #[test]
    fn the_score_counts_right_answers() {
        let mut round = Round::new(12, 200, 7);
        assert_eq!((round.left(), round.score()), (ALL, 0));
        for picture in 0..ALL {
            let real = matches!(round.pictures()[picture], Origin::Real(_));
            round.answer(picture, if picture < 13 { real } else { !real });
        }
        assert_eq!((round.left(), round.score()), (0, 13));
        assert_eq!(
            (round.is_right(12), round.is_right(13)),
            (Some(true), Some(false))
        );
        // A change of mind, and a picture there is not.
        round.answer(13, !round.said(13).unwrap());
        round.answer(99, true);
        assert_eq!(round.score(), 14);
        assert_eq!(round.is_right(99), None);
    }

    /// From a table of the binomial distribution, n = 20, p = 1/2: P(X <= 14) = .9793,
    /// P(X <= 9) = .4119.
    #[test]
    fn chance_is_binomial() {
        assert!((by_chance(15, 20) - 0.0207).abs() < 5e-5);
        assert!((by_chance(10, 20) - 0.5881).abs() < 5e-5);
        assert_eq!(by_chance(0, 20), 1.0);
        assert!((by_chance(20, 20) - 0.5f64.powi(20)).abs() < 1e-15);
        assert_eq!(by_chance(21, 20), 0.0);
    }
}
