//! Devices: which filesystems name their files in `stat` as `/proc/locks` does.
//!
//! btrfs gives each subvolume a device of its own in `stat`, and overlayfs may give those of its layers,
//! inode numbers included; the lock table has the device of the mounted filesystem. The mount that a
//! descriptor is on, told by fdinfo, leads from the one to the other.
//!
//! References: `proc_pid_mountinfo(5)`

use std::collections::{HashMap, HashSet};
use std::fs;

/// The devices of the mounted filesystems.
pub(super) struct Devices {
    plain: HashSet<(u32, u32)>,
    by_mount: HashMap<u64, (u32, u32)>,
}

impl Devices {
    pub(super) fn mounted() -> Self {
        let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
        Self::of(&String::from_utf8_lossy(&text))
    }

    /// `36 35 98:0 /root /mount options - type …`
    pub(super) fn of(text: &str) -> Self {
        let mut devices = Self { plain: HashSet::new(), by_mount: HashMap::new() };
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(mount), Some(device)) = (words.next(), words.nth(1)) else { continue };
            let Some((major, minor)) = device.split_once(':') else { continue };
            let (Ok(mount), Ok(major), Ok(minor)) = (mount.parse(), major.parse(), minor.parse())
            else {
                continue;
            };
            devices.by_mount.insert(mount, (major, minor));
            let kind = words.skip_while(|word| *word != "-").nth(1);
            if !matches!(kind, Some("overlay" | "btrfs")) {
                devices.plain.insert((major, minor));
            }
        }
        devices
    }

    /// Whether `stat` names files of this device as `/proc/locks` does.
    pub(super) fn is_plain(&self, device: (u32, u32)) -> bool {
        self.plain.contains(&device)
    }

    pub(super) fn of_mount(&self, mount: u64) -> Option<(u32, u32)> {
        self.by_mount.get(&mount).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mounts_are_read_whatever_they_say() {
        let devices = Devices::of(
            "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
             28 27 0:50 / /merged rw - overlay overlay rw,lowerdir=/a\n\
             29 27 0:51 /sub /btrfs rw - btrfs /dev/vdb rw\n\
             x y z\n29\n30 27 0:x / / - a b c\n",
        );
        assert!(devices.is_plain((254, 0)));
        assert!(!devices.is_plain((0, 50)) && !devices.is_plain((0, 51)));
        assert_eq!(devices.of_mount(28), Some((0, 50)));
        assert_eq!(devices.of_mount(30), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(\\PC|\n|[0-9:/ -]){0,200}") {
            drop(Devices::of(&text));
        }

        #[test]
        fn what_is_mounted_is_found_again(
            mount in any::<u64>(), major in any::<u32>(), minor in any::<u32>(),
            options in "[a-z0-9,:]{0,20}", point in "/[a-z/\\\\0-9]{0,20}",
        ) {
            let devices = Devices::of(&format!(
                "1 0 x:y / / - z\n{mount} 1 {major}:{minor} / {point} rw {options} - ext4 /dev/x rw\n"
            ));
            prop_assert_eq!(devices.of_mount(mount), Some((major, minor)));
            prop_assert!(devices.is_plain((major, minor)));
        }
    }
}
