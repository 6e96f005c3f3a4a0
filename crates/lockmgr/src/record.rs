//! What a holder writes into its lock file.
//!
//! So far the library writes nothing; it only recognises what is its own, because it removes no
//! file that holds anybody else's data.

/// How every record of ours begins.
const PREFIX: &[u8] = b"{\"lockmgr\":1";

/// Enough of a file's start for [`is_ours`].
pub(crate) const PREFIX_LEN: usize = PREFIX.len() + 1;

/// Returns whether a file that begins with these bytes holds nothing but a record of ours.
pub(crate) fn is_ours(start: &[u8]) -> bool {
    start.is_empty()
        || start.strip_prefix(PREFIX).is_some_and(|rest| matches!(rest.first(), Some(b',' | b'}')))
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn only_empty_files_and_records_are_ours() {
        for ours in [&b""[..], b"{\"lockmgr\":1,", b"{\"lockmgr\":1}"] {
            assert!(is_ours(ours));
        }
        for foreign in
            [&b"\n"[..], b"42", b"{\"lockmgr\":1", b"{\"lockmgr\":12", b"{\"lockmgr\":2,"]
        {
            assert!(!is_ours(foreign), "{foreign:?}");
        }
    }
}
