//! Numbers out of seeds, all integers, so that every machine draws the same.
//!
//! Decides: how a span of times is drawn from. Never: takes randomness from anywhere but a seed or
//! the run's one generator.

use std::time::Duration;

use rand::{Rng, RngCore as _};
use rand_chacha::ChaCha8Rng;

/// ln 2 in millionths: the half-life of an exponential distribution with mean 1.
const LN_2_PPM: u64 = 693_147;
/// Halvings after which the tail is cut: one draw in a million lies beyond.
const HALVINGS_MAX: u64 = 20;

/// From the shortest to the longest of something, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The shortest.
    pub min: Duration,
    /// The longest; never below `min`.
    pub max: Duration,
}

impl Span {
    /// From `min` to `max` microseconds.
    pub const fn micros(min: u64, max: u64) -> Self {
        Self {
            min: Duration::from_micros(min),
            max: Duration::from_micros(if max < min { min } else { max }),
        }
    }

    /// Any of it, all equally likely.
    pub(crate) fn draw(self, rng: &mut ChaCha8Rng) -> Duration {
        Duration::from_micros(rng.random_range(as_micros(self.min)..=as_micros(self.max)))
    }

    /// The one that `key` stands for, so that nothing needs to be remembered.
    pub(crate) fn fixed(self, key: u64) -> u64 {
        let (min, max) = (as_micros(self.min), as_micros(self.max));
        min + scale(mix(key), max - min + 1)
    }
}

/// How a message's delay varies beyond its link's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// Up to this, all equally likely.
    Uniform(Duration),
    /// Exponential with this mean: mostly little, at times twenty halvings more.
    Exponential(Duration),
}

impl Jitter {
    /// Microseconds for one message.
    pub(crate) fn draw(self, rng: &mut ChaCha8Rng) -> u64 {
        match self {
            Self::Uniform(max) if max.is_zero() => 0,
            Self::Uniform(max) => scale(rng.next_u64(), as_micros(max) + 1),
            Self::Exponential(mean) => {
                let bits = rng.next_u64();
                let halvings = u64::from(bits.leading_zeros()).min(HALVINGS_MAX);
                let part = scale(rng.next_u64(), 1_000_000);
                let half_life = as_micros(mean).saturating_mul(LN_2_PPM) / 1_000_000;
                half_life.saturating_mul(halvings * 1_000_000 + part) / 1_000_000
            }
        }
    }
}

/// Whole microseconds.
pub(crate) fn as_micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014): every bit of the key moves every bit.
pub(crate) const fn mix(key: u64) -> u64 {
    let key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let key = (key ^ (key >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let key = (key ^ (key >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    key ^ (key >> 31)
}

/// 64 random bits as a number below `limit` (Lemire 2019, without the rejection: the bias is below
/// a millionth of a millionth for any time that is simulated).
const fn scale(bits: u64, limit: u64) -> u64 {
    let wide = bits as u128 * limit as u128;
    (wide >> 64) as u64
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn draws_stay_within_their_span_and_reach_both_ends() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let span = Span::micros(3, 6);
        let drawn: Vec<_> = (0..200).map(|_| as_micros(span.draw(&mut rng))).collect();
        assert_eq!(drawn.iter().min(), Some(&3));
        assert_eq!(drawn.iter().max(), Some(&6));
        let fixed: Vec<_> = (0..200).map(|key| span.fixed(key)).collect();
        assert_eq!(fixed.iter().min(), Some(&3));
        assert_eq!(fixed.iter().max(), Some(&6));
    }

    #[test]
    fn an_exponential_jitter_has_its_mean_and_a_tail() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let jitter = Jitter::Exponential(Duration::from_micros(1000));
        let drawn: Vec<_> = (0..20_000).map(|_| jitter.draw(&mut rng)).collect();
        let mean = drawn.iter().sum::<u64>() / 20_000;
        assert!((900..1200).contains(&mean), "{mean}");
        assert!(drawn.iter().any(|us| *us > 5000));
    }
}
