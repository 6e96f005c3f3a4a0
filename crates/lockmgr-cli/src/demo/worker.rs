//! A worker: a process that goes into the section and out again, as often as it is told to.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use lockmgr::{Error, FileLock, FileLockGuard, Mechanism};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::others::Others;
use super::story::{Deed, Event};
use crate::duration;
use crate::exit::{self, Failure, Status};

/// The word that makes this program a worker.
const WORKER: &str = "--demo-worker";
/// How many words it has with it.
const WORDS: usize = 7;
/// In the place of a mechanism.
const NO_LOCK: &str = "no-lock";

/// What a worker is to do.
pub(super) struct Part {
    pub(super) number: u32,
    pub(super) lock: PathBuf,
    /// By its name; `None` without a lock.
    pub(super) mechanism: Option<String>,
    /// The process that the workers of one demo have in common.
    pub(super) demo: u32,
    pub(super) rounds: u32,
    pub(super) pace: Duration,
}

/// What a worker says: one line each.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Said {
    Ready,
    Did(Event),
    Failed { status: Status, line: String },
}

impl Part {
    /// As the words of a command line, which others see in their lists of processes.
    pub(super) fn words(&self) -> [OsString; WORDS] {
        [
            WORKER.into(),
            self.number.to_string().into(),
            self.lock.clone().into(),
            self.mechanism.as_deref().unwrap_or(NO_LOCK).into(),
            format!("demo={}", self.demo).into(),
            format!("rounds={}", self.rounds).into(),
            format!("pace={}.{:09}", self.pace.as_secs(), self.pace.subsec_nanos()).into(),
        ]
    }

    fn of_words(words: &[OsString; WORDS]) -> Option<Self> {
        let [_, number, lock, mechanism, demo, rounds, pace] = words;
        let mechanism = mechanism.to_str()?;
        Some(Self {
            number: number.to_str()?.parse().ok()?,
            lock: lock.into(),
            mechanism: (mechanism != NO_LOCK).then(|| mechanism.to_owned()),
            demo: demo.to_str()?.strip_prefix("demo=")?.parse().ok()?,
            rounds: rounds.to_str()?.strip_prefix("rounds=")?.parse().ok()?,
            pace: duration::parse(pace.to_str()?.strip_prefix("pace=")?).ok()?,
        })
    }
}

/// Is a worker if the words of the command line, without the program's name, say so.
pub(crate) fn play(words: &[OsString]) -> Option<Status> {
    let words: &[OsString; WORDS] = words.try_into().ok()?;
    if words[0] != WORKER {
        return None;
    }
    let Some(part) = Part::of_words(words) else { return Some(exit::USAGE) };
    // Nobody is to be left behind when the demo is killed.
    let _as_well_as_can_be = set_parent_process_death_signal(Some(Signal::KILL));
    Some(match part.perform() {
        Ok(()) => exit::OK,
        Err(Failure { status, line }) => {
            drop(say(&Said::Failed { status, line }));
            // What it was has been told.
            exit::OK
        }
    })
}

impl Part {
    fn perform(&self) -> Result<(), Failure> {
        let of_lock = |error: &Error| Failure::of_lock(error, exit::BUSY);
        let lock = match &self.mechanism {
            Some(name) => {
                let mechanism: Mechanism = name.parse().map_err(|error| of_lock(&error))?;
                let options = FileLock::options().mechanism(mechanism);
                // In turns, where that can be.
                let options = match mechanism {
                    Mechanism::Posix => options,
                    _ => options.prefer_fair(true),
                };
                Some(options.open(&self.lock).map_err(|error| of_lock(&error))?)
            }
            None => None,
        };
        let others = Others::of(&self.lock, self.demo);
        say(&Said::Ready)?;
        wait_for_the_others()?;
        // One after the other, so that there is something to see.
        rest(self.pace.mul_f64(0.17) * (self.number - 1));
        for round in 0..self.rounds {
            if lock.is_some() {
                self.did(Deed::Asks)?;
            }
            let guard = lock.as_ref().map(FileLock::lock).transpose();
            let guard = guard.map_err(|error| of_lock(&error))?;
            let (inside, found) = others.as_ref().map_or((None, None), Others::enter);
            self.did(Deed::Enters { others: found })?;
            rest(self.pace.mul_f64(0.75 + 0.5 * self.chance(round, 1)));
            self.did(Deed::Leaves)?;
            drop(inside);
            guard.map(FileLockGuard::unlock).transpose().map_err(|error| of_lock(&error))?;
            rest(self.pace.mul_f64(0.2 + 0.6 * self.chance(round, 2)));
        }
        Ok(())
    }

    fn did(&self, deed: Deed) -> Result<(), Failure> {
        say(&Said::Did(Event { at: now(), worker: self.number, deed }))
    }

    /// A number from 0 to 1, the same in each demo: a picture is to be the same when it is drawn again.
    fn chance(&self, round: u32, what: u32) -> f64 {
        let seed = (self.number * 1009 + round) * 31 + what;
        let mixed = seed.wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(0x9E37_79B1);
        f64::from(mixed >> 16) / f64::from(u16::MAX)
    }
}

fn say(what: &Said) -> Result<(), Failure> {
    let told = || -> io::Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        // In one piece, which a pipe keeps together.
        io::stdout().write_all(&line)?;
        io::stdout().flush()
    };
    told().map_err(|error| Failure::new(exit::SYSTEM, format!("nobody listens: {error}")))
}

fn wait_for_the_others() -> Result<(), Failure> {
    let heard = io::stdin().read_exact(&mut [0]);
    heard.map_err(|error| Failure::new(exit::SYSTEM, format!("nobody says when: {error}")))
}

fn rest(time: Duration) {
    thread::sleep(time);
}

/// Nanoseconds of a clock that all processes have in common.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}
