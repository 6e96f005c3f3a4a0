//! `lockmgr kill`: signals whoever holds a lock, and waits until he does not hold it any more.

pub(crate) mod aim;

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lockmgr::inspect::{Holder, Lock, Standing};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use serde::Serialize;

use crate::cli::{KillArgs, signal_name};
use crate::duration;
use crate::exit::{self, Failure, Status};
use crate::json::{self, HolderJson, PathJson, ProcessJson, Teller};
use crate::say::say;
use crate::{path_of_lock, show};

use aim::{Spared, Target, Whom, choose, is_same, locks_of};

pub(crate) fn kill(args: &KillArgs) -> Result<Status, Failure> {
    let path = path_of_lock(&args.lock, args.system)?;
    // Where others can write, a link would let them choose whose holder is signalled.
    if let Ok(target) = fs::read_link(&path) {
        let line = format!(
            "{} is a symbolic link to {}, and not followed; name its target",
            show::path(&path),
            show::path(&target)
        );
        return Err(Failure::new(exit::CANNOT_OPEN, line));
    }
    Job::new(args, path).done()
}

/// What has come of it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// Nobody held the lock in the first place.
    NotHeld,
    /// Nobody was signalled.
    Refused,
    Free,
    HeldByOthers,
    /// Somebody who was not signalled has the same lock, and keeps it.
    Kept,
    StillHeld,
}

struct Job<'a> {
    args: &'a KillArgs,
    path: PathBuf,
    shown: String,
    targets: Vec<Target>,
    spared: Vec<Spared>,
    /// Who has the lock, in the last look at it.
    holders: Vec<Holder>,
    /// Knows who was signalled, as he was before.
    teller: Teller,
}

impl<'a> Job<'a> {
    fn new(args: &'a KillArgs, path: PathBuf) -> Self {
        Self {
            args,
            shown: show::path(&path),
            path,
            targets: Vec::new(),
            spared: Vec::new(),
            holders: Vec::new(),
            teller: Teller::default(),
        }
    }

    fn look(&mut self) -> Result<Vec<Lock>, Failure> {
        let locks = locks_of(&self.path)?;
        self.holders = locks.iter().flat_map(|lock| &lock.holders).cloned().collect();
        Ok(locks)
    }

    fn whom(&self) -> Whom {
        Whom { inherited: self.args.inherited, init: self.args.init }
    }

    fn done(mut self) -> Result<Status, Failure> {
        let (outcome, line) = self.work()?;
        if self.args.json {
            show::write(&self.in_json(outcome)?)?;
        }
        let status = match outcome {
            Outcome::Free | Outcome::HeldByOthers => {
                self.say(&line);
                return Ok(exit::OK);
            }
            Outcome::NotHeld => exit::NOT_LOCKED,
            Outcome::Refused | Outcome::Kept => exit::REFUSED,
            Outcome::StillHeld => exit::BUSY,
        };
        Err(Failure::new(status, line))
    }

    /// Returns what has come of it, and the line that says so.
    fn work(&mut self) -> Result<(Outcome, String), Failure> {
        let locks = self.look()?;
        if locks.is_empty() {
            return Ok((Outcome::NotHeld, format!("{}: nobody holds it", self.shown)));
        }
        let (chosen, spared) = choose(&locks, self.whom());
        self.spared = spared;
        for (process, holder) in chosen {
            if self.args.json {
                self.teller.process(&process);
            }
            self.targets.extend(Target::pin(process, holder)?);
        }
        // Children that have merely inherited it mostly end with the holder: no word about them, unless
        // there is nobody else.
        for one in &self.spared {
            if self.targets.is_empty() || one.reason != aim::INHERITED {
                self.say(&format!("{} is not signalled: {}", named(&one.holder), one.reason));
            }
        }
        if self.targets.is_empty() {
            // He may have ended since the first look, and not been spared.
            return Ok(if self.spared.is_empty() {
                (Outcome::Free, format!("{}: its holder has just ended", self.shown))
            } else {
                (Outcome::Refused, format!("{}: nobody was signalled", self.shown))
            });
        }
        if let Some(line) = self.is_refused()? {
            self.targets.clear();
            return Ok((Outcome::Refused, line));
        }
        self.send_to_those_who_hold_it_still()?;
        if self.targets.iter().all(|target| target.sent.is_empty()) {
            let locks = self.look()?;
            return Ok(self.after(&locks));
        }
        self.wait()
    }

    /// Asks, unless told not to; returns what to say when the answer is no.
    fn is_refused(&self) -> Result<Option<String>, Failure> {
        if self.args.yes {
            return Ok(None);
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Ok(Some(format!(
                "{}: nobody was signalled, because nobody can be asked here; -y says yes",
                self.shown
            )));
        }
        let signal = signal_name(self.args.signal);
        let holders: Vec<String> =
            self.targets.iter().map(|target| show::process(&target.process)).collect();
        let question = format!(
            "send {signal} to {}, which {} {}? [y/N] ",
            holders.join(" and "),
            if holders.len() == 1 { "holds" } else { "hold" },
            self.shown
        );
        let failed = |error: io::Error| Failure::new(exit::SYSTEM, format!("cannot ask: {error}"));
        // Every name in it has been escaped.
        io::stderr().write_all(question.as_bytes()).map_err(failed)?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map_err(failed)?;
        let yes = matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES");
        Ok((!yes).then(|| format!("{}: nobody was signalled", self.shown)))
    }

    fn send_to_those_who_hold_it_still(&mut self) -> Result<(), Failure> {
        let (holders, spared) = choose(&self.look()?, self.whom());
        let signal = self.args.signal;
        for mut target in std::mem::take(&mut self.targets) {
            let who = show::process(&target.process);
            if !holders.iter().any(|(process, _)| is_same(process, &target.process)) {
                let why_not =
                    spared.iter().find(|one| one.holder.pid() == Some(target.process.pid));
                let reason = why_not.map(|one| one.reason);
                let told = reason.unwrap_or("it has let go of the lock meanwhile");
                self.say(&format!("{who} is not signalled: {told}"));
                let holder = target.holder;
                self.spared.extend(reason.map(|reason| Spared { holder, reason }));
                continue;
            }
            match target.send(signal) {
                Ok(()) if target.ended => self.say(&format!("{who} has ended meanwhile")),
                Ok(()) => self.say(&format!("sent {} to {who}", signal_name(signal))),
                Err(_) => {
                    let reason = "this user may not signal it";
                    self.say(&format!("{who} is not signalled: {reason}"));
                    self.spared.push(Spared { holder: target.holder, reason });
                    continue;
                }
            }
            self.targets.push(target);
        }
        Ok(())
    }

    /// Waits until none of those who were signalled holds the lock.
    ///
    /// Their end is an event. That one of them lets go without ending is none that a bystander could
    /// wait for, so the table is looked at now and then as well.
    fn wait(&mut self) -> Result<(Outcome, String), Failure> {
        let start = Instant::now();
        let deadline = self.args.timeout.and_then(|limit| start.checked_add(limit));
        let mut kill_at = self.args.kill_after.and_then(|after| start.checked_add(after));
        let mut look_again = Duration::from_millis(50);
        loop {
            let locks = self.look()?;
            for target in &mut self.targets {
                target.compare(&locks);
            }
            if !self.targets.iter().any(|target| target.holds) {
                return Ok(self.after(&locks));
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                let holding = self.targets.iter().filter(|target| target.holds);
                let who: Vec<_> = holding.map(|target| show::process(&target.process)).collect();
                let line = format!(
                    "{}: still held by {} after {}",
                    self.shown,
                    who.join(" and "),
                    duration::show(start.elapsed())
                );
                return Ok((Outcome::StillHeld, line));
            }
            if kill_at.is_some_and(|kill_at| now >= kill_at) {
                kill_at = None;
                self.send_kill();
            }
            let until = [deadline, kill_at].into_iter().flatten().min();
            let left = until.map_or(look_again, |until| until.saturating_duration_since(now));
            self.sleep(left.min(look_again));
            look_again = (look_again * 2).min(Duration::from_secs(1));
        }
    }

    fn send_kill(&mut self) {
        for target in &mut self.targets {
            if target.holds
                && !target.ended
                && target.send(Signal::KILL).is_ok()
                && !self.args.quiet
            {
                say(&format!("sent SIGKILL to {}", show::process(&target.process)));
            }
        }
    }

    /// Sleeps until one of those who were signalled ends.
    fn sleep(&mut self, limit: Duration) {
        let living: Vec<usize> =
            (0..self.targets.len()).filter(|&index| !self.targets[index].ended).collect();
        let mut polled: Vec<PollFd<'_>> = living
            .iter()
            .map(|&index| PollFd::new(&self.targets[index].pinned, PollFlags::IN))
            .collect();
        match poll(&mut polled, Timespec::try_from(limit).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // Nothing to wait for: still no reason to run in circles.
            Err(_) => std::thread::sleep(limit),
        }
        let ended: Vec<bool> =
            polled.iter().map(|one| one.revents().contains(PollFlags::IN)).collect();
        drop(polled);
        for (index, ended) in living.into_iter().zip(ended) {
            self.targets[index].ended = ended;
        }
    }

    /// What the locks are like that those who were signalled do not hold any more.
    fn after(&self, locks: &[Lock]) -> (Outcome, String) {
        let shown = &self.shown;
        let living = |lock: &Lock| -> Vec<Holder> {
            let holders = lock.holders.iter();
            holders.filter(|holder| holder.standing != Standing::Gone).cloned().collect()
        };
        if let Some(kept) = locks.iter().find(|lock| self.is_kept(lock)) {
            let who: Vec<_> = living(kept).iter().map(named).collect();
            let line = if who.is_empty() {
                format!("{shown}: the lock lives on, and nobody is seen to have it")
            } else {
                let count = who.len();
                let who = who.join(" and ");
                let (is, them) = if count == 1 { ("was", "it") } else { ("were", "them") };
                format!(
                    "{shown}: the lock lives on in {who}, which {is} not signalled; \
                     `lockmgr kill --inherited {}` signals {them}, too",
                    show::path(Path::new(&self.args.lock))
                )
            };
            return (Outcome::Kept, line);
        }
        match locks.iter().flat_map(living).next() {
            None => (Outcome::Free, format!("{shown} is free")),
            Some(holder) => {
                let line = format!("{shown}: held by others now: {}", named(&holder));
                (Outcome::HeldByOthers, line)
            }
        }
    }

    /// Whether this is a lock of before, in the hands of somebody who was not signalled.
    fn is_kept(&self, lock: &Lock) -> bool {
        lock.holders.iter().any(|holder| match (&holder.process, holder.standing) {
            (Some(process), Standing::Gone) => {
                self.targets.iter().any(|target| target.process.pid == process.pid)
            }
            (Some(process), _) => self.spared.iter().any(|one| {
                one.holder.process.as_ref().is_some_and(|spared| is_same(spared, process))
            }),
            (None, _) => self.spared.iter().any(|one| one.holder.process.is_none()),
        })
    }

    fn say(&self, line: &str) {
        if !self.args.quiet {
            say(line);
        }
    }

    fn in_json(&mut self, outcome: Outcome) -> Result<String, Failure> {
        let teller = &mut self.teller;
        let signalled = self
            .targets
            .iter()
            .map(|target| SignalledJson {
                process: teller.process(&target.process).ended(target.ended),
                standing: target.holder.standing.to_string(),
                signals: target.sent.iter().map(|&signal| signal_name(signal)).collect(),
                ended: target.ended,
                holds: target.holds,
            })
            .collect();
        let spared = self
            .spared
            .iter()
            .map(|one| SparedJson { holder: teller.holder(&one.holder), reason: one.reason })
            .collect();
        let holders = self.holders.iter().map(|holder| teller.holder(holder)).collect();
        let path = PathJson::of(Some(&self.path));
        json::document("kill", Body { path, outcome, signalled, spared, holders })
    }
}

fn named(holder: &Holder) -> String {
    match &holder.process {
        Some(process) => show::process(process),
        None => "a process that is not visible".into(),
    }
}

#[derive(Serialize)]
struct Body {
    #[serde(flatten)]
    path: PathJson,
    outcome: Outcome,
    signalled: Vec<SignalledJson>,
    spared: Vec<SparedJson>,
    holders: Vec<HolderJson>,
}

#[derive(Serialize)]
struct SignalledJson {
    process: ProcessJson,
    standing: String,
    signals: Vec<String>,
    ended: bool,
    holds: bool,
}

#[derive(Serialize)]
struct SparedJson {
    #[serde(flatten)]
    holder: HolderJson,
    reason: &'static str,
}
