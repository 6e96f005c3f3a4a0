//! How single values are read.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use lockmgr::{Mechanism, Range, Semaphore};
use rustix::process::Signal;

pub(super) fn mechanism() -> impl TypedValueParser<Value = Mechanism> {
    PossibleValuesParser::new(["flock", "ofd", "posix"]).try_map(|text| text.parse::<Mechanism>())
}

pub(super) fn range(text: &str) -> Result<Range, String> {
    text.parse().map_err(|error: lockmgr::Error| error.to_string())
}

/// A number of slots.
pub(super) fn slots() -> impl TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(1..=i64::from(Semaphore::MAX_SLOTS))
}

/// File permissions in octal, `0600` or `600`.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if digits && mode <= 0o7777 => Ok(mode),
        _ => Err("write the permissions in octal, between 0 and 7777: 0600".into()),
    }
}

/// A length of time that leaves time for something.
pub(super) fn limit(text: &str) -> Result<Duration, String> {
    match crate::duration::parse(text)? {
        Duration::ZERO => Err("that leaves the command no time".into()),
        limit => Ok(limit),
    }
}

/// The signals that have names, without `SIG`.
const SIGNALS: [(&str, Signal); 31] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("ILL", Signal::ILL),
    ("TRAP", Signal::TRAP),
    ("ABRT", Signal::ABORT),
    ("BUS", Signal::BUS),
    ("FPE", Signal::FPE),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("SEGV", Signal::SEGV),
    ("USR2", Signal::USR2),
    ("PIPE", Signal::PIPE),
    ("ALRM", Signal::ALARM),
    ("TERM", Signal::TERM),
    ("STKFLT", Signal::STKFLT),
    ("CHLD", Signal::CHILD),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("TSTP", Signal::TSTP),
    ("TTIN", Signal::TTIN),
    ("TTOU", Signal::TTOU),
    ("URG", Signal::URG),
    ("XCPU", Signal::XCPU),
    ("XFSZ", Signal::XFSZ),
    ("VTALRM", Signal::VTALARM),
    ("PROF", Signal::PROF),
    ("WINCH", Signal::WINCH),
    ("IO", Signal::IO),
    ("PWR", Signal::POWER),
    ("SYS", Signal::SYS),
];

/// `TERM`, `SIGTERM`, `term` or `15`.
pub(super) fn signal(text: &str) -> Result<Signal, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = text.parse::<i32>().ok();
    SIGNALS
        .iter()
        .find(|(known, signal)| *known == name || Some(signal.as_raw()) == number)
        .map(|(_, signal)| *signal)
        .ok_or_else(|| "write a signal's name (TERM, SIGHUP) or a number from 1 to 31".into())
}

/// A signal's name as people write it: `SIGTERM`.
pub(crate) fn signal_name(signal: Signal) -> String {
    match SIGNALS.iter().find(|(_, known)| *known == signal) {
        Some((name, _)) => format!("SIG{name}"),
        None => format!("signal {}", signal.as_raw()),
    }
}

#[cfg(test)]
mod tests {
    use super::{SIGNALS, mode, signal, signal_name};

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, value) in SIGNALS {
            assert_eq!(signal(name), Ok(value));
            assert_eq!(signal(&format!("sig{}", name.to_lowercase())), Ok(value));
            assert_eq!(signal(&value.as_raw().to_string()), Ok(value));
            assert_eq!(signal_name(value), format!("SIG{name}"));
        }
        for bad in ["", "0", "-1", "32", "SIG", "SIGSIGTERM", "TERM ", "KILLER", "9.0"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn permissions_are_octal() {
        for (text, bits) in
            [("0600", 0o600), ("600", 0o600), ("0", 0), ("7777", 0o7777), ("00002", 2)]
        {
            assert_eq!(mode(text), Ok(bits), "{text}");
        }
        for text in
            ["", "8", "0o600", "+600", "-1", "10000", "rw", "0x1ff", " 600", "77777777777777777"]
        {
            assert!(mode(text).is_err(), "{text}");
        }
    }
}
