//! How long ago, in as few words as a message wants.

use std::fmt;
use std::time::Duration;

/// Shows the two largest units: `4s`, `3m12s`, `2h05m`, `3d04h`.
pub(crate) struct Age(pub(crate) Duration);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{seconds}s"),
            (0, 0, _) => write!(f, "{minutes}m{:02}s", seconds % 60),
            (0, ..) => write!(f, "{hours}h{:02}m", minutes % 60),
            (..) => write!(f, "{days}d{:02}h", hours % 24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_units_are_enough() {
        for (seconds, shown) in [
            (0, "0s"),
            (59, "59s"),
            (192, "3m12s"),
            (3600, "1h00m"),
            (7500, "2h05m"),
            (273_600, "3d04h"),
            (u64::MAX, "213503982334601d07h"),
        ] {
            assert_eq!(Age(Duration::from_secs(seconds)).to_string(), shown);
        }
    }
}
