//! The filesystem that a directory lies on, as the kernel's table of mounts has it.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};

use serde::{Deserialize, Serialize};

/// One line of the table of mounts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    /// `ext4`, `nfs4`, `fuse.sshfs`
    pub(crate) kind: String,
    /// The device, or what the filesystem calls its source.
    pub(crate) source: String,
    pub(crate) mount_point: String,
    /// Of the mount, then of the filesystem.
    pub(crate) options: String,
}

impl Place {
    /// Of a descriptor, without asking the filesystem anything.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> Option<Self> {
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
        let id = about.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
        let table = fs::read("/proc/self/mountinfo").ok()?;
        let table = String::from_utf8_lossy(&table);
        table.lines().find(|line| line.split(' ').next() == Some(id)).and_then(Self::parse)
    }

    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (of_mount, of_filesystem) = line.split_once(" - ")?;
        let mut of_mount = of_mount.split(' ').skip(4);
        let (mount_point, first) = (of_mount.next()?, of_mount.next()?);
        let mut of_filesystem = of_filesystem.split(' ');
        let (kind, source) = (of_filesystem.next()?, of_filesystem.next()?);
        let options = match of_filesystem.next() {
            Some(second) if second != first => format!("{first},{second}"),
            _ => first.to_owned(),
        };
        Some(Self {
            kind: kind.to_owned(),
            source: unescape(source),
            mount_point: unescape(mount_point),
            options: unescape(&options),
        })
    }
}

/// The table writes space, tab, line break and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::Place;

    #[test]
    fn a_line_of_the_table() {
        let line = "36 35 98:0 /root /mnt\\040two rw,noatime master:1 - ext3 /dev/x\\134y rw,errors=continue";
        let place = Place::parse(line).unwrap();
        assert_eq!(place.kind, "ext3");
        assert_eq!(place.source, "/dev/x\\y");
        assert_eq!(place.mount_point, "/mnt two");
        assert_eq!(place.options, "rw,noatime,rw,errors=continue");
        for bad in ["", "36", "36 35 98:0 / /mnt rw", "36 35 98:0 / /mnt rw - ext3"] {
            assert_eq!(Place::parse(bad), None);
        }
    }

    #[test]
    fn of_an_open_directory() {
        let here = std::fs::File::open(".").unwrap();
        let place = Place::of(std::os::fd::AsFd::as_fd(&here)).unwrap();
        assert!(!place.kind.is_empty() && place.mount_point.starts_with('/'));
    }
}
