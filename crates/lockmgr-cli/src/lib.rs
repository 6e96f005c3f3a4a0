//! The command `lockmgr`: `lockmgr run LOCK COMMAND` runs a command for as long as it holds a lock, and
//! holds the lock for as long as the command runs.
//!
//! It is a library so that the man pages and completions can be made from [`cli::command`]; the program
//! is [`start`]. The parts, in the order in which `run` goes through them:
//!
//! - `cli`: the words as they were typed; `duration`: one kind of them
//! - `run`: what they mean; acquire, run, release, report (`locks`: one, several or slots; `busy`,
//!   `nested`, `replace`: what is done before a wait; `environment`: what the command is told)
//! - `waiting`: what is said and looked for while the lock is busy
//! - `command`: the command's words; `child`: starting it, passing signals on, waiting for its end
//!   (`child::limits`: what is due when; `child::job`: a process group and the terminal;
//!   `child::overheard`: what others send it)
//! - `outcome`: what came of a run, for `--result` and `--log`; `log`: the file of events, and its reader;
//!   `one_file`: that what is written is nothing that is locked or read
//! - `flock`: all of it once more, as util-linux's flock(1) has it
//! - `lock_fd`: `lock` and `unlock`, for shell scripts that hold the descriptor
//! - `who`, `ls`, `deadlocks`, `wait`, `kill`: one file a subcommand; `show` prints for people,
//!   `json` for programs
//! - `top`: the live view of all locks (feature `top`); `signal_holder`: a signal that cannot hit another
//!   process, for it and for `kill`
//! - `lab`: how locks behave here: questions that real processes ask the kernel
//! - `exit`: every exit status; `say`: every message
//! - `sys`: all unsafe code
//!
//! Start-up is the price that a shell loop pays, so it is kept low where it was found to matter: the
//! unwinder is linked statically (`build.rs`), Rust's runtime is not started (`main.rs`), a subcommand
//! parses with its own options only (`cli::parse`), and the child is not forked (`sys::spawn`). A
//! lock that is free costs no thread and no signal handler, and nothing is looked up for it.

pub mod cli;

mod child;
mod command;
mod deadlocks;
mod demo;
mod doctor;
mod duration;
mod exit;
mod flock;
mod json;
mod kill;
mod lab;
mod lock_fd;
mod log;
mod look;
mod ls;
mod one_file;
mod outcome;
mod run;
mod say;
mod show;
mod signal_holder;
mod svg;
mod sys;
#[cfg(feature = "top")]
mod top;
mod wait;
mod waiting;
mod who;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::panic::{self, PanicHookInfo};
use std::path::PathBuf;

use lockmgr::name::{self, Scope};
use rustix::process::Signal;

use cli::{CompletionsArgs, Order, PathArgs, RunArgs, Shell};
use exit::{Failure, Status};
use say::say;
use sys::{fd, signals};

/// Runs the command line, the program's name in front; returns the exit status.
#[must_use]
pub fn start(words: &[OsString]) -> i32 {
    panic::set_hook(Box::new(say_defect));
    let as_flock = flock::words(words);
    // flock(1)'s descriptors have the numbers that the original's have, which scripts can see.
    if as_flock.is_none() {
        fd::occupy_closed_streams();
    }
    // A process that is this program once more, and does something for another one.
    let helper = |rest| lab::play(rest).or_else(|| demo::play(rest)).or_else(|| doctor::play(rest));
    if as_flock.is_none()
        && let Some(status) = words.get(1..).and_then(helper)
    {
        return i32::from(status);
    }
    let status = panic::catch_unwind(|| match as_flock {
        Some((name, words)) => flock::start(name, words),
        None => match cli::parse(words) {
            Ok(order) => obey(order),
            Err(error) => refuse(words, &error),
        },
    });
    i32::from(status.unwrap_or(exit::DEFECT))
}

fn obey(order: Order) -> Status {
    match order {
        Order::Run(args) => run::run(args),
        Order::Lock(args) => lock_fd::lock(&args),
        Order::Unlock(args) => lock_fd::unlock(&args),
        Order::Flock(args) => flock::start(OsStr::new("flock"), &args.words),
        Order::Who(args) => report(|| who::who(&args), false),
        Order::Ls(args) => report(|| ls::ls(&args), false),
        Order::Wait(args) => report(|| wait::wait(&args), args.acquire.quiet),
        Order::Kill(args) => report(|| kill::kill(&args), args.quiet),
        Order::Deadlocks(args) => report(|| deadlocks::deadlocks(&args), false),
        Order::Log(args) => report(|| log::log(&args), false),
        Order::Lab(args) => report(|| lab::lab(&args), false),
        Order::Demo(args) => report(|| demo::demo(&args), false),
        Order::Doctor(args) => report(|| doctor::doctor(&args), false),
        Order::Path(args) => finish(path(&args), false),
        Order::Completions(args) => finish(completions(&args), false),
        Order::Top(args) => finish(top(&args), false),
    }
}

/// As [`finish`], for what prints as it goes: a reader that has gone away is no reason to die of
/// SIGPIPE.
fn report(work: impl FnOnce() -> Result<Status, Failure>, quiet: bool) -> Status {
    signals::block(&[Signal::PIPE]);
    finish(work(), quiet)
}

/// The exit status of what was done, after saying what was not.
fn finish(result: Result<Status, Failure>, quiet: bool) -> Status {
    result.unwrap_or_else(|failure| {
        if !quiet {
            // Nobody reading must not cost the status.
            signals::block(&[Signal::PIPE]);
            say(&failure.line);
        }
        failure.status
    })
}

/// Help and version go to standard output, and all is well; a wrong command line to standard error.
fn refuse(words: &[OsString], error: &clap::Error) -> Status {
    if !error.use_stderr() {
        return match error.print().and_then(|()| io::stdout().flush()) {
            // Somebody who closed the output does not want to read it.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                finish(Err(not_written(&error)), false)
            }
            _ => exit::OK,
        };
    }
    drop(error.print());
    if words.get(1).is_some_and(|word| word == "run") {
        outcome::of_wrong_usage(RunArgs::made_out(&words[2..]), &in_one_line(error));
    }
    exit::USAGE
}

/// What clap says, without its advice.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let what = text.split("\n\n").next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(what);
    what.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(feature = "top")]
fn top(args: &cli::TopArgs) -> Result<Status, Failure> {
    top::run(args)
}

#[cfg(not(feature = "top"))]
fn top(_: &cli::TopArgs) -> Result<Status, Failure> {
    Err(Failure::usage("this build has no `top`: it was made without the feature of that name"))
}

fn path(args: &PathArgs) -> Result<Status, Failure> {
    let scope = if args.system { Scope::System } else { Scope::User };
    let path = path_of(&args.lock, scope)?;
    print(&[path.as_os_str().as_bytes(), b"\n"].concat())
}

/// The path of the lock's file; nothing is touched.
fn path_of(lock: &OsStr, scope: Scope) -> Result<PathBuf, Failure> {
    if name::is_path(lock) {
        return Ok(lock.into());
    }
    name::path_of(&printable(lock), scope).map_err(|error| Failure::of_lock(&error, exit::BUSY))
}

/// As [`path_of`], for subcommands in which `--system` beside a path would be a mistake.
fn path_of_lock(lock: &OsStr, system: bool) -> Result<PathBuf, Failure> {
    if lock.is_empty() {
        return Err(Failure::usage("the lock's name is empty"));
    }
    if system && name::is_path(lock) {
        return Err(Failure::usage("--system is for names, and LOCK is a path; leave it out"));
    }
    path_of(lock, if system { Scope::System } else { Scope::User })
}

fn completions(args: &CompletionsArgs) -> Result<Status, Failure> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "lockmgr", &mut script);
    print(&script)
}

/// Writes to standard output what was asked for.
fn print(bytes: &[u8]) -> Result<Status, Failure> {
    let mut output = io::stdout().lock();
    output
        .write_all(bytes)
        .and_then(|()| output.flush())
        .map(|()| exit::OK)
        .map_err(|error| not_written(&error))
}

fn not_written(error: &io::Error) -> Failure {
    Failure::new(exit::SYSTEM, format!("cannot write the output: {error}"))
}

/// Text for a message or a check; what is no UTF-8 shows as a replacement character.
fn printable(text: &OsStr) -> std::borrow::Cow<'_, str> {
    text.to_string_lossy()
}

/// The one line that a user sees of a panic.
fn say_defect(panic: &PanicHookInfo<'_>) {
    say(&defect(panic));
}

fn defect(panic: &PanicHookInfo<'_>) -> String {
    let payload = panic.payload();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let what = text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("panic");
    let place = panic.location().map(|at| format!(" ({}:{})", at.file(), at.line()));
    format!("this is a defect in lockmgr, please report it: {what}{}", place.unwrap_or_default())
}
