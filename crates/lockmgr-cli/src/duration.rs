//! Lengths of time as people write them: `2.5` (seconds), `250ms`, `1m30s`, `0`.

use std::time::Duration;

/// Reads a length of time: plain decimal seconds, or numbers with units.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text
        .strip_prefix('-')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
    {
        return Err("a length of time cannot be negative".into());
    }
    if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return seconds(text).ok_or_else(|| what_is_wrong(text));
    }
    let friendly = text.parse().or_else(|_| with_days(text)).map_err(|_| what_is_wrong(text))?;
    // `3s ago` is negative without a minus sign.
    Duration::try_from(friendly).map_err(|_| "a length of time cannot be negative".into())
}

/// Days and weeks, of 24 hours each, which a plain duration does not have.
fn with_days(text: &str) -> Result<jiff::SignedDuration, jiff::Error> {
    text.parse::<jiff::Span>()?.to_duration(jiff::SpanRelativeTo::days_are_24_hours())
}

/// If it would be right with smaller numbers, it is a length of time.
fn what_is_wrong(text: &str) -> String {
    let mut small = String::new();
    for character in text.chars() {
        match character {
            '0'..='9' if small.ends_with('1') => {}
            '0'..='9' => small.push('1'),
            other => small.push(other),
        }
    }
    if small != text && parse(&small).is_ok() {
        return "that is too long".into();
    }
    "write seconds (2.5) or numbers with units (250ms, 1m30s, 2h, 1d)".into()
}

/// Digits with at most one point among them; what is finer than a nanosecond is cut off.
fn seconds(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let nanoseconds = fraction
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(9)
        .fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Some(Duration::new(whole, nanoseconds))
}

/// A length of time for people to read, to three digits or so.
pub(crate) fn show(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.as_micros() < 1000 => format!("{}µs", duration.as_micros()),
        0 => format!("{}ms", duration.as_millis()),
        1..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m{:02}s", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_understood() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0.0", 0),
            ("5", 5000),
            ("1d", 86_400_000),
            ("1d12h", 129_600_000),
            ("2w", 1_209_600_000),
            ("2.5", 2500),
            (".05", 50),
            ("3.", 3000),
            (" 7 ", 7000),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("1m 30s", 90_000),
            ("2h", 7_200_000),
            ("1.5s", 1500),
            ("PT1M", 60_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(parse("0.0000000019"), Ok(Duration::from_nanos(1)));
        assert_eq!(parse("18446744073709551615"), Ok(Duration::from_secs(u64::MAX)));
    }

    #[test]
    fn what_is_no_length_of_time_is_refused() {
        for text in [
            "",
            " ",
            ".",
            "1.2.3",
            "abc",
            "-1",
            "-1s",
            "-0.5",
            "1s ago",
            "nan",
            "inf",
            "infinity",
            "1e3",
            "0x10",
            "+5",
            "5 apples",
            "18446744073709551616",
            "1,5",
            "١",
        ] {
            assert!(parse(text).is_err(), "{text:?} was taken for {:?}", parse(text));
        }
    }

    #[test]
    fn what_is_too_long_is_called_so() {
        for text in ["99999999999999999999", "18446744073709551616.5", "99999999999999999999h"] {
            assert_eq!(parse(text), Err("that is too long".into()), "{text}");
        }
        for text in ["", "-n", "--no-wait", "1,5", "11 11", "99999999999999999999 apples"] {
            assert!(parse(text).unwrap_err().starts_with("write seconds"), "{text}");
        }
    }

    #[test]
    fn shown_as_people_say_it() {
        for (milliseconds, text) in [
            (0, "0µs"),
            (250, "250ms"),
            (1234, "1.2s"),
            (59_999, "60.0s"),
            (90_000, "1m30s"),
            (3_723_000, "1h02m03s"),
        ] {
            assert_eq!(show(Duration::from_millis(milliseconds)), text);
        }
    }
}
