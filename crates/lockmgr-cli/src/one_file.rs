//! Whether two paths lead to one file: what a command writes must be neither what it reads nor what
//! others lock.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether both are the same file, by whatever names, or would be if it were made.
pub(crate) fn is_one_file(one: &Path, other: &Path) -> bool {
    if let (Ok(one), Ok(other)) = (fs::metadata(one), fs::metadata(other)) {
        return is_one(&one, &other);
    }
    let (Some(name), Some(others)) = (one.file_name(), other.file_name()) else { return false };
    name == others
        && match (fs::metadata(directory(one)), fs::metadata(directory(other))) {
            (Ok(one), Ok(other)) => is_one(&one, &other),
            _ => directory(one) == directory(other),
        }
}

/// Whether what was looked at is the same file.
pub(crate) fn is_one(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Where the path's last name is looked up.
pub(crate) fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
