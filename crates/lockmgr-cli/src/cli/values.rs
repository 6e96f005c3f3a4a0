//! How single values are read.

use std::ops::RangeInclusive;
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

/// A whole number in this range, which has no end if it ends with [`u64::MAX`].
pub(super) fn whole<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            let (first, last) = (range.start(), range.end());
            match last {
                &u64::MAX => format!("write a whole number, {first} or more"),
                _ => format!("write a whole number from {first} to {last}"),
            }
        })
    }
}

/// A number of slots.
pub(super) fn slots(text: &str) -> Result<u32, String> {
    whole(1..=Semaphore::MAX_SLOTS.into())(text)
}

/// The number of a descriptor, which need not be open.
pub(super) fn descriptor(text: &str) -> Result<i32, String> {
    text.parse().map_err(|_| "write the number of an open descriptor, such as 9".into())
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
        Duration::ZERO => Err("that leaves no time at all".into()),
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
    use super::{SIGNALS, mode, signal, signal_name, whole};

    #[test]
    fn whole_numbers_have_their_limits() {
        assert_eq!(whole(1..=9)("9"), Ok(9_u8));
        assert_eq!(whole(0..=u64::MAX)("18446744073709551615"), Ok(u64::MAX));
        for bad in ["", "0", "10", "-1", "1.5", "one", "99999999999999999999"] {
            let refused = whole::<u32>(1..=9)(bad);
            assert_eq!(refused, Err("write a whole number from 1 to 9".into()), "{bad}");
        }
        let refused = whole::<u64>(0..=u64::MAX)("-1");
        assert_eq!(refused, Err("write a whole number, 0 or more".into()));
    }

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
