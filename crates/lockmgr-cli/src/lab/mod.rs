//! `lockmgr lab`: how locks behave here, asked of the kernel itself.
//!
//! A *probe* is a question that is answered yes or no by a *scene*: real processes (*actors*) do real calls on
//! files in a scratch directory, and what came back is the evidence. All that is known about a probe stands
//! in one place (`probes`), and the command, `lockmgr doctor`, the documents and the tests read the same list.
//!
//! - `probe`: what a probe is, what is expected, what an answer is; `probes`: all of them
//! - `ask`: asks one question of one directory, within a time. Everything below happens in other processes:
//! - `stage`: one process for each question, which plays the scene; `scratch`: its directory
//! - `scene`: actors as a scene sees them; `asleep`: whether one of them sleeps for a lock
//! - `actor`: the process that makes the calls; `call`: the calls; `errno`: what their errors are called
//! - `command`, `report`, `story`, `list`, `json`: `lockmgr lab`; `place`: what the filesystem is
//! - `sizes`, `try_it`: `lockmgr lab sizes` and `lockmgr lab try`
//! - `part`: how these processes, which are this program, are told which of them they are

mod actor;
mod ask;
mod asleep;
mod call;
mod command;
pub(crate) mod errno;
mod json;
mod list;
mod part;
pub(crate) mod place;
pub(crate) mod probe;
pub(crate) mod probes;
mod report;
mod scene;
mod scratch;
mod sizes;
mod stage;
mod story;
mod try_it;

pub(crate) use ask::ask;
pub(crate) use command::lab;
pub(crate) use part::{check_proc, play};
