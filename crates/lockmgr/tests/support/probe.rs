//! One acquisition in a process of its own, so that user, umask, limits and descriptors are its
//! own too, and what became of it in one line.

use std::ffi::OsString;
use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockmgr::name::Scope;
use lockmgr::{Error, FileLock, FileLockOptions, Mechanism, Mode};
use rustix::process::{Resource, Rlimit, setrlimit, umask};

use super::users::become_user;
use super::{Worker, descriptor_count, hear, say};

/// Acquires in a new process and returns `held`, or the error's variant and text, in which `PATH`
/// stands for the path. The process has made sure that no descriptor was left open.
///
/// `words` are those of [`run`].
pub(crate) fn probe(path: &Path, words: &str) -> String {
    let worker = start(path, words);
    let outcome = worker.next_line();
    assert!(worker.finish().success(), "{words}: {outcome}");
    outcome
}

/// As [`probe`], but the process goes on; with the word `hold` it holds until told otherwise.
pub(crate) fn start(path: &Path, words: &str) -> Worker {
    Worker::spawn("probe", &[&hex(path), words])
}

/// What an error is, in the form that [`probe`] gives it.
pub(crate) fn told(error: &Error, path: &Path) -> String {
    let debug = format!("{error:?}");
    let variant = debug.split([' ', '{']).next().unwrap();
    let text = error.to_string();
    assert!(!text.contains('\n'), "one line: {text}");
    assert!(!text.chars().any(char::is_control), "nothing for a terminal to obey: {text:?}");
    let shown = path.to_str().filter(|path| path.contains('/')).unwrap_or("\0");
    format!("{variant}: {}", text.replace(shown, "PATH"))
}

/// The role. Words: `flock`, `ofd`, `posix`; `shared`; `try`, `timeout=MILLISECONDS`; `follow`,
/// `no-create`, `parents`, `remove`, `fair`, `prefer-fair`, `fenced`, `mode=OCTAL`; `umask=OCTAL`, `user=UID`, `files=LIMIT`;
/// `named`, for which the path is a bare name, and `system`; `hold`.
pub(crate) fn run(args: &[String]) {
    let path = from_hex(&args[0]);
    let options = FileLock::options();
    let mut how = How { options, scope: None, mode: Mode::Exclusive, wait: None };
    let mut hold = false;
    for word in args[1].split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let octal = || u32::from_str_radix(value, 8).unwrap();
        let options = how.options.clone();
        how.options = match key {
            "flock" | "ofd" | "posix" => options.mechanism(key.parse::<Mechanism>().unwrap()),
            "follow" => options.follow_symlinks(true),
            "no-create" => options.create(false),
            "parents" => options.create_parents(true),
            "remove" => options.remove_on_release(true),
            "fair" => options.fair(true),
            "prefer-fair" => options.prefer_fair(true),
            "fenced" => options.fenced(true),
            "mode" => options.creation_mode(octal()),
            _ => options,
        };
        match key {
            "shared" => how.mode = Mode::Shared,
            "named" => how.scope = Some(Scope::User),
            "system" => how.scope = Some(Scope::System),
            "try" => how.wait = Some(Duration::ZERO),
            "timeout" => how.wait = Some(Duration::from_millis(value.parse().unwrap())),
            "umask" => drop(umask(octal().into())),
            "user" => become_user(value.parse().unwrap()),
            "files" => {
                let limit = Some(value.parse().unwrap());
                setrlimit(Resource::Nofile, Rlimit { current: limit, maximum: limit }).unwrap();
            }
            "hold" => hold = true,
            _ => {}
        }
    }
    let before = open_descriptors();
    how.acquire(&path, &mut |outcome| {
        say(outcome);
        if hold {
            hear();
        }
    });
    // Once more: what is left open once is forgotten easily, what is left open twice is a leak.
    if !hold {
        how.acquire(&path, &mut |_| {});
    }
    assert_eq!(open_descriptors(), before, "a descriptor was left open");
}

/// Looking may itself fail for want of a descriptor.
fn open_descriptors() -> Option<usize> {
    std::fs::read_dir("/proc/self/fd").ok().map(|_| descriptor_count())
}

struct How {
    options: FileLockOptions,
    /// For a bare name.
    scope: Option<Scope>,
    mode: Mode,
    /// Zero for one attempt, `None` for ever.
    wait: Option<Duration>,
}

impl How {
    fn acquire(&self, path: &Path, tell: &mut dyn FnMut(String)) {
        let opened = match self.scope {
            Some(scope) => self.options.open_named(path, scope),
            None => self.options.open(path),
        };
        let lock = match opened {
            Ok(lock) => lock,
            Err(error) => return tell(told(&error, path)),
        };
        let acquire = lock.acquire().mode(self.mode);
        let result = match self.wait {
            Some(Duration::ZERO) => acquire.try_now(),
            Some(limit) => acquire.timeout(limit).wait(),
            None => acquire.wait(),
        };
        match result {
            Ok(guard) => {
                tell(match (self.scope, guard.path()) {
                    (Some(_), Some(path)) => format!("held {}", path.display()),
                    _ => "held".to_owned(),
                });
                if let Err(error) = guard.unlock() {
                    say(told(&error, path));
                }
                // What the handle keeps from one acquisition to the next goes with it.
                for _ in 0..2 {
                    drop(lock.acquire().mode(self.mode).try_now());
                }
            }
            Err(error) => tell(told(&error, path)),
        }
    }
}

/// A path of any bytes, as an argument.
pub(crate) fn hex(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

pub(crate) fn from_hex(text: &str) -> PathBuf {
    let bytes = text
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
    OsString::from_vec(bytes.collect()).into()
}
