//! What the command promises, on real processes, files, signals and terminals; one file a promise.
//!
//! No test sleeps to make sure: each waits for the event it needs, with a generous bound.

mod bad_input;
mod command_environment;
mod daemon_left_behind;
mod deadlock_option;
mod deadlocks;
mod demo;
mod every_and_fenced;
mod exit_codes;
mod fair;
mod fd_forms;
mod filesystems;
mod flock;
mod hand_over;
mod hold_tree;
mod holder_record;
mod if_busy;
mod inherited_signal_state;
mod json_schema;
mod kill;
mod lab;
mod lock_lasts_as_long_as_command;
mod log;
mod ls;
mod max_hold;
mod names;
mod nested;
mod output;
mod replace;
mod result;
mod scarcity;
mod several_locks;
mod sigkill_of_lockmgr;
mod signals;
mod slots;
mod support;
mod terminal;
#[cfg(feature = "top")]
mod top;
mod wait;
mod waiting_line;
mod who;
