//! What a holder writes into its lock file.
//!
//! So far the library writes nothing; it only recognises what is its own, because it removes no
//! file that holds anybody else's data.

/// How every record of ours begins.
const PREFIX: &[u8] = b"{\"lockmgr\":1";

/// No record is longer.
const LONGEST: usize = 4096;

/// Enough of a file's start for [`is_ours`].
pub(crate) const START_LEN: usize = LONGEST + 1;

/// Returns whether a file that begins with these bytes holds nothing but a record of ours: one
/// line, which a crash may have left unfinished.
pub(crate) fn is_ours(start: &[u8]) -> bool {
    let line = start.strip_suffix(b"\n").unwrap_or(start);
    start.is_empty()
        || start.len() <= LONGEST
            && !line.contains(&b'\n')
            && line
                .strip_prefix(PREFIX)
                .is_some_and(|rest| matches!(rest.first(), Some(b',' | b'}')))
}

#[cfg(test)]
mod tests {
    use super::{START_LEN, is_ours};

    #[test]
    fn only_empty_files_and_records_are_ours() {
        for ours in
            [&b""[..], b"{\"lockmgr\":1,", b"{\"lockmgr\":1}", b"{\"lockmgr\":1,\"pid\":7}\n"]
        {
            assert!(is_ours(ours));
        }
        let long = [b"{\"lockmgr\":1,", &[b' '; START_LEN][..]].concat();
        for foreign in [
            &b"\n"[..],
            b"42",
            b"{\"lockmgr\":1",
            b"{\"lockmgr\":12",
            b"{\"lockmgr\":2,",
            b"{\"lockmgr\":1}\n\n",
            b"{\"lockmgr\":1}\nnotes",
            &long[..START_LEN],
        ] {
            assert!(!is_ours(foreign), "{foreign:?}");
        }
    }
}
