//! How single values are read.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use lockmgr::{Mechanism, Range};

pub(super) fn mechanism() -> impl TypedValueParser<Value = Mechanism> {
    PossibleValuesParser::new(["flock", "ofd", "posix"]).try_map(|text| text.parse::<Mechanism>())
}

pub(super) fn range(text: &str) -> Result<Range, String> {
    text.parse().map_err(|error: lockmgr::Error| error.to_string())
}

/// File permissions in octal, `0600` or `600`.
pub(super) fn mode(text: &str) -> Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if digits && mode <= 0o7777 => Ok(mode),
        _ => Err("write the permissions in octal, between 0 and 7777: 0600".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::mode;

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
