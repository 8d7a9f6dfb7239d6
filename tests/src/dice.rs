//! Random choices that a seed decides.

/// Random numbers that a seed decides: `SplitMix64` (Steele, Lea, Flood 2014).
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    /// Dice for that seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice of its own for another thread.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// True so many times in a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// A number from the environment, or what a short run takes.
pub fn wanted(name: &str, short: u64) -> u64 {
    std::env::var(name).map_or(short, |text| text.parse().expect("a number"))
}

/// The seed that `PGMQ_MAIL_CHAOS_SEED` asks for, or a new one; it is printed, so that a run can be repeated.
pub fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = wanted(
        "PGMQ_MAIL_CHAOS_SEED",
        now.map_or(1, |since| since.as_millis() as u64),
    );
    eprintln!("PGMQ_MAIL_CHAOS_SEED={seed}");
    seed
}
