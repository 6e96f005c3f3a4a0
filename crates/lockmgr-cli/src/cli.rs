//! The command line as it is typed; what it means is worked out by the subcommands.
//!
//! Each option's text, meaning and default stand together here, and the help, the man pages and the
//! completions are made from it.

mod demo;
mod doctor;
mod fd;
mod kill;
mod lab;
mod lasting;
mod log;
mod look;
mod run;
mod top;
mod values;
mod wait;

use std::ffi::OsString;
use std::mem;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use lockmgr::{Mechanism, Mode, Range};

pub(crate) use demo::DemoArgs;
pub(crate) use doctor::DoctorArgs;
pub(crate) use fd::{LockArgs, UnlockArgs};
pub(crate) use kill::KillArgs;
pub(crate) use lab::{LabArgs, LabOrder, SizesArgs, TryArgs};
pub(crate) use lasting::LastingArgs;
pub(crate) use log::LogArgs;
pub(crate) use look::{DeadlocksArgs, LsArgs, SortKey, WhoArgs};
pub(crate) use run::{IfBusy, LimitArgs, MadeOut, Nested, RunArgs};
pub(crate) use top::TopArgs;
pub(crate) use values::signal_name;
pub(crate) use wait::{NestedWait, WaitArgs};

use crate::exit::{self, Status};

/// Locks between processes, kept by the kernel: a lock ends with whoever holds it.
#[derive(Parser)]
#[command(name = "lockmgr", version, after_help = EXAMPLES)]
struct CommandLine {
    #[command(subcommand)]
    order: Order,
}

const EXAMPLES: &str = "\
Examples:
  lockmgr run backup rsync -a /home /mnt     one at a time; the next one waits
  lockmgr run -n backup rsync -a /home /mnt  or gives up, with status 75
  lockmgr run -w 1m30s /run/deploy.lock -- ./deploy.sh
  exec 9>state.lock; lockmgr lock --fd 9; …; lockmgr unlock --fd 9
  lockmgr who backup                         who holds it, who waits
  lockmgr ls --waiting                       all locks that somebody waits for
  lockmgr doctor /srv/data                   may locks be trusted there?

Exit status:
  of the command that was run; 128+N when signal N ended it; 126 and 127 when it
  cannot be executed or is not found; 75 busy or timed out; 64 wrong usage;
  73 the lock file cannot be opened or created; 74 another failure of the system

`lockmgr help run` tells the rest.";

/// What lockmgr is asked to do.
#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is taken apart at once")]
pub(crate) enum Order {
    Run(RunArgs),
    Lock(LockArgs),
    Unlock(UnlockArgs),
    Who(WhoArgs),
    Ls(LsArgs),
    Wait(WaitArgs),
    Kill(KillArgs),
    Deadlocks(DeadlocksArgs),
    Flock(FlockArgs),
    Log(LogArgs),
    Lab(LabArgs),
    Demo(DemoArgs),
    Doctor(DoctorArgs),
    Path(PathArgs),
    Completions(CompletionsArgs),
    Top(TopArgs),
}

/// Be flock(1) of util-linux, as when called by the name of flock
///
/// Its options, messages and exit statuses are the original's: see `lockmgr flock --help`, and flock(1).
/// A link is all that scripts need: ln -s lockmgr /usr/local/bin/flock
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct FlockArgs {
    /// The words of the original's command line
    #[arg(value_name = "WORD", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<OsString>,
}

/// Print the path of a named lock's file
#[derive(Args)]
#[command(after_help = "\
Examples:
  lockmgr path backup            /run/lockmgr/backup.lock for root,
                                 /tmp/lockmgr-UID/backup.lock for others
  lockmgr path --system backup   /run/lock/lockmgr/backup.lock for everybody
  lockmgr path ./my.lock         a path is printed as it is")]
pub(crate) struct PathArgs {
    /// The lock's name, or a path
    #[arg(value_name = "NAME")]
    pub(crate) lock: OsString,
    /// The lock that all users share
    #[arg(long)]
    pub(crate) system: bool,
}

/// Print a completion script for a shell
#[derive(Args)]
#[command(after_help = "\
Examples:
  lockmgr completions bash > /etc/bash_completion.d/lockmgr
  lockmgr completions zsh > /usr/local/share/zsh/site-functions/_lockmgr
  lockmgr completions fish > ~/.config/fish/completions/lockmgr.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// What `run` and `lock` have in common: which lock, and how long to wait for it.
#[derive(Args)]
#[cfg_attr(test, derive(Debug, PartialEq))]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch on the command line")]
pub(crate) struct AcquireArgs {
    /// Share the lock with others that share it
    #[arg(short, long, overrides_with = "exclusive")]
    shared: bool,
    /// Have the lock alone (the default); of -s and -x the last one counts
    #[arg(short = 'x', long, overrides_with = "shared")]
    exclusive: bool,
    /// Do not wait: give up at once when the lock is busy
    ///
    /// Wins over --timeout.
    #[arg(short, long)]
    no_wait: bool,
    /// Give up when the lock is still busy after DURATION
    ///
    /// Seconds (2.5) or numbers with units (250ms, 1m30s, 2h, 1d); 0 is one attempt. The time covers
    /// everything up to having the lock, opening its file included.
    #[arg(
        short = 'w', long, value_name = "DURATION", allow_hyphen_values = true,
        value_parser = crate::duration::parse
    )]
    timeout: Option<std::time::Duration>,
    /// Exit with N instead of 75 when the lock is busy or does not get free in time
    #[arg(
        short = 'E', long, value_name = "N", default_value_t = exit::BUSY, hide_default_value = true,
        value_parser = values::whole::<Status>(0..=255), allow_negative_numbers = true
    )]
    pub(crate) busy_exit_code: Status,
    /// Which of the kernel's locks to take
    ///
    /// flock: on the whole file, as flock(1) does. ofd: a record lock, which can cover a part of the
    /// file (--range) and excludes programs that use fcntl(2) or lockf(3): package managers,
    /// databases, mail. posix: a record lock that belongs to one process.
    #[arg(
        short, long, value_name = "flock|ofd|posix", hide_possible_values = true,
        default_value = "flock", value_parser = values::mechanism()
    )]
    pub(crate) mechanism: Mechanism,
    /// Lock these bytes of the file only (with -m ofd or posix); without LEN, up to its end
    ///
    /// The bytes need not exist.
    #[arg(
        long, value_name = "START[+LEN]", value_parser = values::range, allow_hyphen_values = true
    )]
    pub(crate) range: Option<Range>,
    /// What to do when the wait turns out to be part of a deadlock
    ///
    /// Processes that wait for each other in a circle never go on by themselves. Looked for after the
    /// first second of waiting and then at growing intervals; only what is certain counts. warn: say who
    /// waits for whom, and wait on (the default). fail: give up, with the same exit status as after a
    /// timeout; of several lockmgr in the circle the youngest gives up first. ignore: do not look.
    #[arg(
        long,
        value_name = "warn|fail|ignore",
        hide_possible_values = true,
        default_value = "warn",
        hide_default_value = true
    )]
    pub(crate) deadlock: OnDeadlock,
    /// Print no messages of lockmgr's own
    ///
    /// Not the line either that says whom a wait is for: on a terminal after half a second, elsewhere
    /// after 10 seconds and then at growing intervals.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Say on standard error how long the lock was waited for and held
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

impl Default for AcquireArgs {
    fn default() -> Self {
        Self {
            shared: false,
            exclusive: false,
            no_wait: false,
            timeout: None,
            busy_exit_code: exit::BUSY,
            mechanism: Mechanism::Flock,
            range: None,
            deadlock: OnDeadlock::Warn,
            quiet: false,
            verbose: false,
        }
    }
}

impl AcquireArgs {
    pub(crate) fn mode(&self) -> Mode {
        // Each overrides the other, so at most one of them is set.
        if self.shared { Mode::Shared } else { Mode::Exclusive }
    }

    /// One attempt is all there is to be.
    pub(crate) fn do_not_wait(&mut self) {
        self.no_wait = true;
    }

    pub(crate) fn wait(&self) -> Wait {
        match self.timeout {
            _ if self.no_wait => Wait::Not,
            None => Wait::Forever,
            Some(limit) if limit.is_zero() => Wait::Not,
            Some(limit) => Wait::For(limit),
        }
    }
}

/// What to do about a deadlock.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
#[cfg_attr(test, derive(Debug))]
pub(crate) enum OnDeadlock {
    Warn,
    Fail,
    Ignore,
}

/// How long to wait for a busy lock.
#[derive(Clone, Copy)]
pub(crate) enum Wait {
    Not,
    For(std::time::Duration),
    Forever,
}

/// The whole definition, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    CommandLine::command().args_override_self(true)
}

/// Reads the words of the command line, the program's name in front.
///
/// The subcommands that shell loops call build only their own part of the definition: the whole of it
/// costs another 4 % of the wall time of `lockmgr run LOCK true`. Its own part costs 7 %, so that is not
/// built where there are no options to read.
pub(crate) fn parse(words: &[OsString]) -> Result<Order, clap::Error> {
    match words.get(1).and_then(|word| word.to_str()) {
        Some("run") => match RunArgs::without_options(&words[2..]) {
            Some(args) => Ok(Order::Run(args)),
            None => parse_one("run", words, RunArgs::check).map(Order::Run),
        },
        Some("lock") => parse_one("lock", words, |_| Ok(())).map(Order::Lock),
        Some("unlock") => parse_one("unlock", words, |_| Ok(())).map(Order::Unlock),
        first => {
            let as_options = if first == Some("kill") { kill::as_options(words) } else { None };
            let mut command = command();
            let matches =
                command.try_get_matches_from_mut(as_options.as_deref().unwrap_or(words))?;
            CommandLine::from_arg_matches(&matches)
                .map(|line| line.order)
                .map_err(|error| error.format(&mut command))
        }
    }
}

/// Reads the words of one subcommand.
fn parse_one<A: Args>(
    name: &'static str,
    words: &[OsString],
    check: impl FnOnce(&clap::ArgMatches) -> Result<(), String>,
) -> Result<A, clap::Error> {
    // It is there until the process ends; to take it apart piece by piece costs as much as reading does.
    let mut command = mem::ManuallyDrop::new(single::<A>(name));
    let matches = command.try_get_matches_from_mut(&words[2..])?;
    check(&matches)
        .map_err(|line| command.error(clap::error::ErrorKind::ArgumentConflict, line))?;
    A::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// One subcommand's part of the definition, as a command of its own.
fn single<A: Args>(name: &'static str) -> clap::Command {
    A::augment_args(clap::Command::new(name))
        .bin_name(format!("lockmgr {name}"))
        .no_binary_name(true)
        .args_override_self(true)
}

#[cfg(test)]
mod tests {
    use rustix::process::Signal;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn one_subcommand_alone_helps_as_it_does_in_the_whole() {
        let mut whole = command();
        whole.build();
        for (name, mut alone) in [
            ("run", single::<RunArgs>("run")),
            ("lock", single::<LockArgs>("lock")),
            ("unlock", single::<UnlockArgs>("unlock")),
        ] {
            alone.build();
            let part = whole.find_subcommand_mut(name).expect("it is a subcommand");
            assert_eq!(
                alone.render_long_help().to_string(),
                part.render_long_help().to_string(),
                "{name}"
            );
        }
    }

    /// What is laid out by hand is broken anew on a narrower terminal, and then is a muddle.
    #[test]
    fn what_is_laid_out_by_hand_fits_eighty_columns() {
        let mut whole = command();
        whole.build();
        let find = |path: &str| {
            let mut words = path.split(' ');
            words.try_fold(&whole, |command, word| command.find_subcommand(word)).expect(path)
        };
        for path in ["run", "lock", "unlock", "wait", "log", "lab", "lab sizes", "lab try", "demo"]
        {
            let text = find(path).get_after_help().expect("examples").to_string();
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{path}: {line}");
            }
        }
        for line in EXAMPLES.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    fn parse_text(line: &str) -> Result<Order, clap::Error> {
        parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn of_shared_and_exclusive_the_last_one_counts() {
        for (line, mode) in [
            ("lockmgr run l c", Mode::Exclusive),
            ("lockmgr run -s l c", Mode::Shared),
            ("lockmgr run -s -x l c", Mode::Exclusive),
            ("lockmgr run -x --exclusive -s l c", Mode::Shared),
        ] {
            let Ok(Order::Run(args)) = parse_text(line) else { panic!("{line}") };
            assert_eq!(args.acquire.mode(), mode, "{line}");
        }
    }

    #[test]
    fn not_waiting_wins_and_zero_is_not_waiting() {
        for (line, not) in [
            ("lockmgr run -n -w 5 l c", true),
            ("lockmgr run -w 5 -n l c", true),
            ("lockmgr run -w 0 l c", true),
            ("lockmgr run -w 0 -w 5 l c", false),
        ] {
            let Ok(Order::Run(args)) = parse_text(line) else { panic!("{line}") };
            assert_eq!(matches!(args.acquire.wait(), Wait::Not), not, "{line}");
        }
    }

    #[test]
    fn kill_takes_signals_as_kill_1_does() {
        for (line, signal) in [
            ("lockmgr kill l", Signal::TERM),
            ("lockmgr kill -9 l", Signal::KILL),
            ("lockmgr kill -y -HUP l", Signal::HUP),
            ("lockmgr kill l -SIGINT -q", Signal::INT),
            ("lockmgr kill -s 1 l", Signal::HUP),
            ("lockmgr kill -sUSR1 -- l", Signal::USR1),
        ] {
            let Ok(Order::Kill(args)) = parse_text(line) else { panic!("{line}") };
            assert_eq!((args.signal, args.lock), (signal, "l".into()), "{line}");
        }
        let Ok(Order::Kill(args)) = parse_text("lockmgr kill -- -9") else { panic!("a name") };
        assert_eq!((args.signal, args.lock), (Signal::TERM, "-9".into()));
        for line in ["lockmgr kill -99 l", "lockmgr kill -9 -- -9 l", "lockmgr kill -KILLER l"] {
            assert!(parse_text(line).is_err(), "{line}");
        }
    }

    #[test]
    fn lock_ends_the_options() {
        for (line, words) in [
            ("lockmgr run l c -n --help", &["c", "-n", "--help"][..]),
            ("lockmgr run l -- c -- d", &["c", "--", "d"]),
            ("lockmgr run l -- -c d", &["-c", "d"]),
            ("lockmgr run -- l c", &["c"]),
        ] {
            let Ok(Order::Run(args)) = parse_text(line) else { panic!("{line}") };
            assert_eq!(args.command, words, "{line}");
        }
        for line in ["lockmgr run l -n c", "lockmgr run l --timeout 3 c", "lockmgr run l --bogus c"]
        {
            assert!(parse_text(line).is_err(), "{line}");
        }
    }
}
