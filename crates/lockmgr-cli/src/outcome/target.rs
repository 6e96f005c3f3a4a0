//! Where a result goes: `--result FILE|fd:N`.
//!
//! A reader of FILE finds no file, or one whole result: it is written beside FILE under another name and
//! then renamed. It is not synced to the disk: whether the machine survived is not what it tells. What
//! stands at FILE at the start is removed then, so that nobody takes it for this run's result. FILE is
//! replaced only if it is a regular file; for a pipe or a terminal there is `fd:N`. It is never a file that
//! is locked or written by the same run: a lock file that is removed under its holder keeps nobody out.
//!
//! Both are tried at the start: when a result could not be written, nothing is run.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Access, OFlags, access, fcntl_getfl};
use rustix::process::Signal;

use crate::exit::{self, Failure};
use crate::one_file::{directory, is_one_file};
use crate::printable;
use crate::sys::{fd, signals};

pub(super) enum Target {
    File(PathBuf),
    Descriptor(i32, File),
}

impl Target {
    /// `used` are the files that the run has for something else.
    pub(super) fn open(text: &OsStr, used: &[(PathBuf, &str)]) -> Result<Self, Failure> {
        match text.as_bytes().strip_prefix(b"fd:") {
            Some(number) => Self::descriptor(number),
            None => Self::file(Path::new(text), used),
        }
    }

    fn descriptor(number: &[u8]) -> Result<Self, Failure> {
        let is_digits = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(number).ok().filter(|_| is_digits);
        let Some(number) = number.and_then(|number| number.parse().ok()) else {
            return Err(Failure::usage("--result fd:N wants the number of an open descriptor"));
        };
        let file = fd::duplicate(number).map_err(|error| match error.raw_os_error() {
            Some(libc::EBADF) => {
                Failure::usage(format!("--result fd:{number}: that descriptor is not open"))
            }
            _ => Failure::new(exit::SYSTEM, format!("--result fd:{number}: {error}")),
        })?;
        let flags = fcntl_getfl(&file).unwrap_or(OFlags::empty());
        // Write-only and read-write; a bare path (O_PATH) is neither.
        let is_writable = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        if !is_writable || flags.contains(OFlags::PATH) {
            let line = format!("--result fd:{number}: that descriptor is not open for writing");
            return Err(Failure::usage(line));
        }
        Ok(Self::Descriptor(number, file))
    }

    fn file(path: &Path, used: &[(PathBuf, &str)]) -> Result<Self, Failure> {
        if path.file_name().is_none() {
            return Err(Failure::usage("--result wants the name of a file, or fd:N"));
        }
        if let Some((_, what)) = used.iter().find(|(other, _)| is_one_file(path, other)) {
            return Err(Failure::usage(format!(
                "--result {}: this is {what}, which would be replaced; name another file",
                printable(path.as_os_str())
            )));
        }
        let failed = |error: &io::Error| failed(path, error);
        match fs::symlink_metadata(path) {
            Ok(status) if status.is_file() => fs::remove_file(path).map_err(|e| failed(&e))?,
            Ok(_) => {
                return Err(Failure::usage(format!(
                    "--result {}: this is no regular file, and would be replaced by one; \
                     name another, or use fd:N",
                    printable(path.as_os_str())
                )));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&error)),
        }
        access(directory(path), Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| failed(&error.into()))?;
        Ok(Self::File(path.to_path_buf()))
    }

    pub(super) fn write(self, text: &[u8]) -> Result<(), Failure> {
        // Nobody reading, or no more room, must not cost the status.
        signals::block(&[Signal::PIPE]);
        let written = signals::without_size_signal(|| match &self {
            Self::File(path) => replace(path, text),
            Self::Descriptor(_, file) => write_all(file, text),
        });
        written.map_err(|error| match &self {
            Self::File(path) => failed(path, &error),
            Self::Descriptor(number, _) => Failure::new(
                exit::SYSTEM,
                format!("the result is not written to fd:{number}: {error}"),
            ),
        })
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let path = printable(path.as_os_str());
    Failure::new(exit::CANNOT_OPEN, format!("the result cannot be written to {path}: {error}"))
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut name = OsString::from(".");
    // A name can be as long as the file system allows: ours is cut to fit.
    let own = path.file_name().unwrap_or_default().as_bytes();
    name.push(OsStr::from_bytes(&own[..own.len().min(200)]));
    name.push(format!(".{}.new", process::id()));
    let new = directory(path).join(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o666);
    let written = options
        .open(&new)
        .and_then(|mut file| file.write_all(text))
        .and_then(|()| fs::rename(&new, path));
    if written.as_ref().is_err_and(|error| error.kind() != ErrorKind::AlreadyExists) {
        drop(fs::remove_file(&new));
    }
    written
}

/// Somebody may have made it non-blocking.
fn write_all(mut file: &File, mut text: &[u8]) -> io::Result<()> {
    while !text.is_empty() {
        match file.write(text) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => text = &text[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _again = poll(&mut [PollFd::new(file, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
