//! Chance that can be repeated: `LOCKMGR_TEST_SEED` repeats a seed.

/// A small generator of numbers (xorshift64*): the same for the same seed.
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let state = match std::env::var("LOCKMGR_TEST_SEED") {
            Ok(seed) => seed.parse().unwrap(),
            Err(_) => u64::from(now.subsec_nanos()) + 1,
        };
        Self { state }
    }

    /// To be told when something fails.
    pub(crate) fn seed(&self) -> Seed {
        Seed(self.state)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % limit
    }

    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + (self.next() >> 33) % (high - low)
    }
}

impl From<u64> for Random {
    fn from(state: u64) -> Self {
        Self { state }
    }
}

/// Shown in every complaint, and when a test fails in any other way.
pub(crate) struct Seed(u64);

impl std::fmt::Display for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LOCKMGR_TEST_SEED={}", self.0)
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "with it the failure can be repeated")]
            {
                eprintln!("{self}");
            }
        }
    }
}
