//! Random numbers from a seed, and ranks by Zipf's law.
//!
//! Owns the generators: one seed gives one sequence, on every machine. Never asks the system.

#![allow(dead_code, unreachable_pub, reason = "each bench uses its part")]

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }
}

/// Ranks by Zipf's law: rank r as often as r to the power of minus `skew`.
pub struct Zipf {
    /// Sums of the weights up to each rank.
    sums: Vec<f64>,
}

impl Zipf {
    pub fn new(objects: u64, skew: f64) -> Zipf {
        let mut sum = 0.0;
        let weight = |rank: u64| {
            sum += (rank as f64).powf(-skew);
            sum
        };
        Zipf {
            sums: (1..=objects).map(weight).collect(),
        }
    }

    pub fn draw(&self, random: &mut Random) -> u64 {
        let all = self.sums.last().copied().unwrap_or(0.0);
        let at = (random.draw() >> 11) as f64 / (1_u64 << 53) as f64 * all;
        let rank = self.sums.partition_point(|&sum| sum <= at);
        rank.min(self.sums.len() - 1) as u64
    }
}
