//! `lockmgr top`: its options.

use std::time::Duration;

use clap::Args;

/// Show every lock on the machine, and who waits, as it changes
///
/// Locks that somebody waits for stand first. Enter opens the details of the selected one: all who hold
/// it, and everybody who waits because of it as a tree, deadlocks marked. `?` lists the keys.
///
/// The kernel does not know how long a lock has been held or waited for. The ages count from when this
/// program first saw the holder or waiter; `>12s` was there when the program began, 12 seconds ago, and
/// may be older by any amount. A lock that changes hands and comes back between two looks is not noticed.
///
/// K sends a signal to the holder, after a question that names both; only to a process that is verified
/// to have taken the lock and to hold it at that moment.
#[derive(Args)]
#[command(after_help = "\
Examples:
  lockmgr top
  lockmgr top --interval 250ms
  sudo lockmgr top          sees everybody's processes

It needs a terminal, and exits with 64 without one. With NO_COLOR set it uses none.")]
pub(crate) struct TopArgs {
    /// Look this often; at most ten times a second
    #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = interval, allow_hyphen_values = true)]
    pub(crate) interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(24 * 3600);
    let interval = crate::duration::parse(text)?;
    if (SHORTEST..=LONGEST).contains(&interval) {
        Ok(interval)
    } else {
        Err("look between ten times a second (100ms) and once a day (24h)".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_neither_nothing_nor_forever() {
        for text in ["100ms", "1", "24h"] {
            assert!(interval(text).is_ok(), "{text}");
        }
        for text in ["0", "99ms", "25h", "-1", "x"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }
}
