//! `lockmgr run`: its options.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, ValueEnum, ValueHint};

use super::{AcquireArgs, LastingArgs, single, values};

/// Run a command while holding a lock
///
/// The lock lasts exactly as long as the command: its end releases the lock, and nothing else does.
/// Killing lockmgr does not (the command has inherited the lock), and neither does a program that the
/// command left behind in the background prolong it (see --hold-tree).
///
/// Signals that are sent to lockmgr reach the command (INT, TERM, HUP, QUIT, USR1, USR2, WINCH, CONT,
/// TSTP); what the terminal sends to both is not sent twice. A signal that a process sends to the
/// whole process group may arrive twice. While it still waits for the lock, lockmgr dies of them as
/// any program does, and the command is not started.
#[derive(Args, Default)]
#[cfg_attr(test, derive(Debug, PartialEq))]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch on the command line")]
#[expect(clippy::doc_markdown, reason = "help is plain text: names of variables stand as they are")]
#[command(
    override_usage = "lockmgr run [OPTIONS] LOCK [--] COMMAND [ARG]...\n       \
                      lockmgr run [OPTIONS] LOCK -c STRING",
    after_help = EXAMPLES
)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) acquire: AcquireArgs,

    /// Run STRING with $SHELL, or /bin/sh if that is not set
    #[arg(short = 'c', long = "command", value_name = "STRING", conflicts_with = "command",
          allow_hyphen_values = true, value_hint = ValueHint::CommandString)]
    pub(crate) shell_command: Option<OsString>,

    /// A name is the same lock for all users
    ///
    /// Its file is in /run/lock/lockmgr then.
    #[arg(long)]
    pub(crate) system: bool,

    /// Remove the lock file when the lock is released
    ///
    /// Safe with lockmgr on all sides: it checks that the file it has locked is still the one that
    /// the path names. A file with content of others is left alone.
    #[arg(long, conflicts_with = "no_fork")]
    pub(crate) remove: bool,

    /// Fail when the lock file does not exist
    #[arg(long)]
    pub(crate) no_create: bool,

    /// Create the lock file with these permissions (octal, such as 0600)
    ///
    /// Exactly these, whatever the umask. The default is 0666 less the umask.
    #[arg(long, value_name = "MODE", value_parser = values::mode, allow_negative_numbers = true)]
    pub(crate) mode: Option<u32>,

    /// Write TEXT into the lock file, beside what it says about the holder anyway
    ///
    /// While a command runs under the exclusive lock, a line in the lock file says who holds it: the
    /// process, its user, since when, the command, and TEXT. It is for people who wonder why the lock
    /// is held. The line is left out where the lock file holds anything else, has a second name (a
    /// hard link), may not be written, or is locked with --shared or --range. With --note you are told
    /// then, and when TEXT is too long (some 1500 bytes) and was cut.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) note: Option<OsString>,

    #[command(flatten)]
    pub(crate) lasting: LastingArgs,

    /// Become the command instead of waiting for it
    ///
    /// The command takes over lockmgr's process, and holds the lock until the last process that has
    /// inherited it ends, programs in the background included.
    #[arg(long)]
    pub(crate) no_fork: bool,

    /// Hold the lock until every process that the command has left behind has ended, too
    ///
    /// The exit status is the command's. Signals that come when only those processes are left reach
    /// them. (Children that lockmgr had from the start, by exec in a shell that has background jobs,
    /// count as well.)
    #[arg(long, conflicts_with = "no_fork")]
    pub(crate) hold_tree: bool,

    /// Wait in line: first come, first served
    ///
    /// Otherwise whoever releases the lock and comes back at once often overtakes those who sleep, and
    /// overlapping --shared holders keep an exclusive one out. In line are those who use --fair, and
    /// programs that use the library's fair locks. The lock file must be writable; posix locks cannot be
    /// fair. --slots always is.
    #[arg(long)]
    pub(crate) fair: bool,

    /// Let N commands in at a time: LOCK is N slots, of which each command has one
    ///
    /// Everybody should name the same N for the same LOCK; whoever names a smaller one uses only the
    /// first so many slots. The slots are not the same lock as LOCK without --slots: use a lock file for
    /// one or the other. The slot's number, from 0 to N-1, is in LOCKMGR_SLOT.
    #[arg(long, value_name = "N", value_parser = values::slots, allow_negative_numbers = true,
          conflicts_with_all = ["shared", "mechanism", "range", "remove", "note", "and", "and_shared"])]
    pub(crate) slots: Option<u32>,

    /// Have K of the slots, all of them or none
    #[arg(long, value_name = "K", value_parser = values::slots, allow_negative_numbers = true,
          requires = "slots")]
    pub(crate) take: Option<u32>,

    /// Have this lock, too; all of them or none (may be repeated)
    ///
    /// While it waits for one of the locks, it has none of the others, so there is no deadlock, in
    /// whatever order others name the same locks. The price is that it may wait long where the locks
    /// are busy by turns; --fair helps. What the other options say goes for all of the locks.
    #[arg(long, value_name = "LOCK", value_hint = ValueHint::AnyPath, conflicts_with = "range")]
    pub(crate) and: Vec<OsString>,

    /// As --and, sharing that lock with others that share it
    #[arg(long, value_name = "LOCK", value_hint = ValueHint::AnyPath, conflicts_with = "range")]
    pub(crate) and_shared: Vec<OsString>,

    /// What to do when the lock is busy: wait (the default), fail, skip or replace
    ///
    /// fail: as -n. skip: exit with 0, without having run the command (with --timeout, when the lock is
    /// busy still after that time). replace: send SIGTERM to the holder, and wait. That goes to one
    /// process at most: the one that had the lock when this command came, has it still, and has left
    /// its record in the lock file, which the kernel confirms (so not to a --shared one, nor to one
    /// that cannot write there); never to an ancestor or to process 1. It is no hand-over: whoever is
    /// before this command in the queue gets the lock first, and is left alone, as is everybody who gets
    /// it after this command has come. Of two commands that replace the same holder, both signal it, one
    /// after the other gets the lock, and neither signals the other.
    #[arg(
        long,
        value_name = "wait|fail|skip|replace",
        hide_possible_values = true,
        default_value = "wait",
        hide_default_value = true
    )]
    pub(crate) if_busy: IfBusy,

    /// Give up, with the status for a busy lock, when N others wait already
    ///
    /// As the kernel's table has it at that moment: two that come at the same time may both stay.
    #[arg(long, value_name = "N", value_parser = values::whole::<usize>(0..=u64::MAX),
          allow_negative_numbers = true)]
    pub(crate) max_waiting: Option<usize>,

    /// What to do when an ancestor of this process has the lock: fail (the default), pass or wait
    ///
    /// fail: give up at once, with the status for a busy lock, because the ancestor most likely waits for
    /// the end of this very process. pass: run the command inside the ancestor's hold, without a lock of
    /// its own; what was asked for must be part of that hold, a token (--fenced) and slots, too, and --every
    /// cannot be. wait: wait as for anybody else, such as in the background. It is looked for where LOCKMGR_LOCK is in the environment and the lock is
    /// busy; what is found is the kernel's word. (With --slots: where too few slots are left for ever;
    /// pass takes none where the ancestor has enough.)
    #[arg(
        long,
        value_name = "fail|pass|wait",
        hide_possible_values = true,
        default_value = "fail",
        hide_default_value = true
    )]
    pub(crate) nested: Nested,

    #[command(flatten)]
    pub(crate) limit: LimitArgs,

    /// Write at the end, as one line of JSON, what came of it
    ///
    /// So that no exit status is ambiguous: the outcome (ran, busy, timed-out, lock-error, …; see
    /// docs/json.md), the lock, how long it was waited for and held, the command's exit status or signal.
    /// It is written on every way out, a wrong command line included, as long as the option stands before
    /// what is no option; it is missing only if lockmgr was killed before its command was started, or by
    /// SIGKILL. FILE is replaced as a whole (what stands there at the start is removed),
    /// so it cannot be one of the locks, nor the FILE of --log; fd:N is an open descriptor.
    #[arg(long, value_name = "FILE|fd:N", conflicts_with = "no_fork", value_hint = ValueHint::FilePath)]
    pub(crate) result: Option<OsString>,

    /// Append to FILE, as a line of JSON each, what happens: waiting, acquired, released, busy, …
    ///
    /// Any number of processes may have the same FILE. `lockmgr log FILE` sums it up and draws it. If FILE
    /// cannot be written, the command runs all the same. Symbolic links are not followed.
    #[arg(long, value_name = "FILE", conflicts_with = "no_fork", value_hint = ValueHint::FilePath)]
    pub(crate) log: Option<PathBuf>,

    /// A lock file (anything with a slash), or a lock's name (letters, digits, '.', '_', '-')
    ///
    /// `lockmgr path NAME` prints where a name's file is. Options end here: all further words are the
    /// command's.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) lock: OsString,

    /// The command and its arguments
    #[arg(trailing_var_arg = true, required_unless_present = "shell_command", value_name = "COMMAND",
          value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}

/// How long the lock may be held.
#[derive(Args, Default)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct LimitArgs {
    /// End the command with SIGTERM when it has held the lock for DURATION, and exit with 124
    ///
    /// The time counts from when the lock was had. The lock is released when the command has really ended,
    /// not before (see --kill-after).
    ///
    /// As with timeout(1), the command runs in a process group of its own, so that everything in it gets the
    /// signal; with --hold-tree, every process that the command has started. At a terminal it becomes
    /// the foreground job, and Ctrl-C, Ctrl-Z and fg work; but others in a pipeline with lockmgr are in the
    /// background meanwhile, and cannot read from the terminal. The time goes on while the job is stopped.
    #[arg(long, value_name = "DURATION", conflicts_with = "no_fork", value_parser = values::limit,
          allow_hyphen_values = true)]
    pub(crate) max_hold: Option<Duration>,

    /// Send SIGKILL if the command still runs DURATION after the SIGTERM of --max-hold
    ///
    /// The exit status is 137 if that ended it.
    #[arg(long, value_name = "DURATION", requires = "max_hold", value_parser = crate::duration::parse,
          allow_hyphen_values = true)]
    pub(crate) kill_after: Option<Duration>,

    /// Say so on standard error, once, when the command has held the lock for DURATION
    #[arg(long, value_name = "DURATION", conflicts_with = "no_fork",
          value_parser = crate::duration::parse, allow_hyphen_values = true)]
    pub(crate) warn_after: Option<Duration>,
}

/// What to do about a busy lock.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
#[cfg_attr(test, derive(Debug))]
pub(crate) enum IfBusy {
    #[default]
    Wait,
    Fail,
    Skip,
    Replace,
}

/// What to do about an ancestor's hold.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
#[cfg_attr(test, derive(Debug))]
pub(crate) enum Nested {
    #[default]
    Fail,
    Pass,
    Wait,
}

const EXAMPLES: &str = "\
Examples:
  lockmgr run backup rsync -a /home /mnt         wait, however long it takes
  lockmgr run -n backup rsync -a /home /mnt      exit with 75 if it is busy
  lockmgr run -w 1m30s -E 0 backup ./backup.sh   give up after 90 s, with 0
  lockmgr run -s ./data.lock -- ./report.sh      beside other readers
  lockmgr run -m ofd --range 100+50 ./db ./fix   also against fcntl(2)
  lockmgr run deploy -c 'make && make install'   a shell command
  lockmgr run --every 1d report ./report.sh      once a day at most
  lockmgr run --fenced deploy ./deploy.sh        a number in $LOCKMGR_TOKEN
  lockmgr run --system apt-mirror ./sync.sh      one lock for all users
  lockmgr run --max-hold 1h --kill-after 10s backup ./backup.sh
  lockmgr run --log locks.jsonl --result fd:3 backup ./backup.sh 3>result.json
  lockmgr run --slots 4 downloads wget URL       four at a time
  lockmgr run --slots 8 --take 3 cores make -j3  three of eight at once
  lockmgr run --and bob alice ./transfer.sh      both locks or none
  lockmgr run --if-busy=skip sync ./sync.sh      not if it runs already
  lockmgr run --if-busy=replace preview ./serve  the newest takes over

The command's environment:
  LOCKMGR_LOCK       the lock file of LOCK
  LOCKMGR_MODE       exclusive, shared or slots
  LOCKMGR_SLOT       with --slots: the numbers of the slots, as in 0 or 0,3,4
  LOCKMGR_TOKEN      with --fenced: the fencing token
  LOCKMGR_WAITED_MS  how long the lock was waited for, in milliseconds

Exit status:
  the command's own; or
  0         --every or --if-busy=skip has left it out
  64        wrong usage
  73        the lock file cannot be opened or created
  74        another failure of the system
  75        (or -E) busy, timed out, --deadlock=fail, --max-waiting, or held by
            an ancestor
  124       --max-hold has ended the command (137: it took SIGKILL)
  126, 127  the command cannot be executed, or is not found
  128+N     signal N has ended the command

A LOCK with a slash in it, and . and .., are paths. A path that is a symbolic
link is refused: name its target.

Programs that close all descriptors they did not open (sudo does) drop the
lock's one; the lock lasts as long as the command all the same, but then ends
if lockmgr is killed with SIGKILL.";

/// What can be made out of a command line that is wrong, from its beginning to LOCK.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct MadeOut {
    /// What `--result` names.
    pub(crate) result: Option<OsString>,
    /// The values of all other options, and the words from LOCK on.
    pub(crate) others: Vec<OsString>,
}

impl RunArgs {
    /// `LOCK COMMAND [ARG]...` without anything that the definition would be needed for.
    pub(super) fn without_options(words: &[OsString]) -> Option<Self> {
        let (lock, command) = words.split_first()?;
        let is_option = |word: &OsString| word.as_encoded_bytes().starts_with(b"-");
        if is_option(lock) || command.first().is_none_or(is_option) {
            return None;
        }
        Some(Self { lock: lock.clone(), command: command.to_vec(), ..Self::default() })
    }

    /// What can be made out of a command line that is wrong.
    pub(crate) fn made_out(words: &[OsString]) -> MadeOut {
        let definition = single::<Self>("run");
        let takes_value = |is_it: &dyn Fn(&Arg) -> bool| {
            let mut options = definition.get_arguments().filter(|arg| !arg.is_positional());
            options.any(|arg| is_it(arg) && arg.get_action().takes_values())
        };
        let mut made_out = MadeOut::default();
        let mut rest = words;
        while let Some((word, behind)) = rest.split_first() {
            let Some(option) = word.as_bytes().strip_prefix(b"-") else { break };
            rest = behind;
            let (name, value) = match option.strip_prefix(b"-") {
                // The end of the options.
                Some(b"") => break,
                Some(long) => {
                    let mut parts = long.splitn(2, |byte| *byte == b'=');
                    let name = parts.next().unwrap_or_default();
                    let takes = takes_value(&|arg| arg.get_long().map(str::as_bytes) == Some(name));
                    (name, parts.next().or(takes.then_some(b"")))
                }
                None => {
                    let is = |byte: u8| move |arg: &Arg| arg.get_short() == Some(byte.into());
                    let at = option.iter().position(|byte| takes_value(&is(*byte)));
                    (option, at.map(|at| &option[at + 1..]))
                }
            };
            let value = match value {
                None => continue,
                Some(b"") => match rest.split_first() {
                    Some((value, behind)) => {
                        rest = behind;
                        value.clone()
                    }
                    None => break,
                },
                Some(value) => OsStr::from_bytes(value).to_owned(),
            };
            if name == b"result" {
                made_out.result = Some(value);
            } else {
                made_out.others.push(value);
            }
        }
        made_out.others.extend_from_slice(rest);
        made_out
    }

    /// Refuses options between LOCK and the command, where flock(1) takes none either: words after
    /// LOCK often come out of a variable, and must not change which lock is taken, or how.
    pub(super) fn check(matches: &ArgMatches) -> Result<(), String> {
        let Some(lock) = matches.index_of("lock") else {
            return Ok(());
        };
        for id in matches.ids().map(clap::Id::as_str) {
            let typed = matches.value_source(id) == Some(ValueSource::CommandLine);
            // Groups, such as the one of a flattened struct, are ids as well, and have no values.
            let is_option = !matches!(id, "lock" | "command" | "shell_command")
                && !matches!(id, "RunArgs" | "AcquireArgs" | "LastingArgs" | "LimitArgs");
            if typed && is_option && matches.index_of(id).is_some_and(|index| index > lock) {
                let name = id.replace('_', "-");
                return Err(format!(
                    "the option '--{name}' stands after LOCK; write options before it, \
                     and '--' before a command that begins with '-'"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_one;
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        ["lockmgr", "run"].into_iter().chain(line.split(' ')).map(OsString::from).collect()
    }

    #[test]
    fn without_options_it_is_what_the_definition_makes_of_it() {
        for line in
            ["lock command", "lock command -n --note x -- y", ". true", " true", "lock  x", "ü/ö x"]
        {
            let words = words(line);
            let args = RunArgs::without_options(&words[2..]);
            assert!(args.is_some(), "{line}");
            assert_eq!(args, parse_one("run", &words, RunArgs::check).ok(), "{line}");
        }
    }

    #[test]
    fn of_a_wrong_line_the_result_is_made_out() {
        for (line, result, others) in [
            ("--result r --slots 0 l c", Some("r"), &["0", "l", "c"][..]),
            ("--result=r --bogus l c", Some("r"), &["l", "c"]),
            ("--bogus -nw 5 --result r", Some("r"), &["5"]),
            ("-w5 --result a --result=b l", Some("b"), &["5", "l"]),
            ("--and=x --no-fork --result r -- -l", Some("r"), &["x", "-l"]),
            ("-c --result l", None, &["--result", "l"]),
            ("-n l --result r", None, &["l", "--result", "r"]),
            ("--result", None, &[]),
            ("--resultx r l", None, &["r", "l"]),
        ] {
            let made_out = RunArgs::made_out(&words(line)[2..]);
            let others = others.iter().map(OsString::from).collect();
            assert_eq!(made_out, MadeOut { result: result.map(OsString::from), others }, "{line}");
        }
    }

    #[test]
    fn the_rest_is_left_to_the_definition() {
        for line in [
            "lock",
            "lock -- true",
            "-- lock true",
            "-n lock true",
            "lock -n true",
            "lock -",
            "- x",
        ] {
            assert_eq!(RunArgs::without_options(&words(line)[2..]), None, "{line}");
        }
        assert_eq!(RunArgs::without_options(&[]), None);
    }
}
