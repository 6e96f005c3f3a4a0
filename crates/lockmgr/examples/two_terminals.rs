//! One lock, two terminals.
//!
//! Run this in one terminal and then, while it holds the lock, in another:
//!
//! ```text
//! cargo run --example two_terminals
//! ```
//!
//! The first one holds the lock for ten seconds, or until Enter is pressed. The second one says that
//! it waits, and for whom, and gets the lock the moment the first one lets go, also if that is
//! killed. Another lock file and other seconds can be given as arguments.

#![expect(clippy::print_stdout, reason = "it is a program that talks")]

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use lockmgr::{Error, FileLock};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let path =
        args.next().unwrap_or_else(|| std::env::temp_dir().join("two-terminals.lock").into());
    let hold = match args.next() {
        Some(seconds) => seconds.to_string_lossy().parse()?,
        None => 10,
    };

    let lock = FileLock::open(path)?;
    // First without waiting, to be able to say that we wait, and for whom.
    let guard = match lock.try_lock() {
        Err(busy @ Error::Busy { .. }) => {
            println!("{busy}");
            println!("Waiting for it ...");
            lock.lock()?
        }
        result => result?,
    };

    let waited = match guard.wait_time() {
        Duration::ZERO => "at once".to_owned(),
        waited => format!("after {waited:.1?}"),
    };
    println!("Acquired {waited}. Holding it for {hold} s, or until Enter ...");
    wait_for_enter(Duration::from_secs(hold));
    // A drop would do; this also says whether somebody deleted the lock file meanwhile.
    guard.unlock()?;
    println!("Released.");
    Ok(())
}

/// Waits for Enter, or for so long.
fn wait_for_enter(limit: Duration) {
    let (sender, enter) = mpsc::channel();
    let reader = sender.clone();
    thread::spawn(move || {
        // The end of the input, when there is no terminal, is no Enter.
        if io::stdin().read_line(&mut String::new()).is_ok_and(|count| count > 0) {
            let _ = reader.send(());
        }
    });
    // Either will do. While `sender` is here, the channel does not close.
    let _ = enter.recv_timeout(limit);
    drop(sender);
}
