//! What permissions, ownership and clocks of a place do to lock files. Pure: what was seen goes in.

use super::finding::Finding;
use super::look::{FileSeen, KindSeen, Seen};

const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;

/// A clock that differs by less than this is no trouble to anybody.
const CLOCK_MS: u64 = 2000;

pub(super) fn found(seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(finding) = of_the_directory(seen) {
        findings.push(finding);
    } else if let Some(file) = &seen.file {
        of_the_file(file, seen, &mut findings);
    } else if let Err(errno) = &seen.scratch {
        findings.push(if seen.is_directory {
            let text = format!(
                "no lock file can be made there ({errno}), only what is there already locked"
            );
            Finding::limit("no-new-files", text)
        } else {
            let text = format!("the lock file is not there, and cannot be made ({errno})");
            Finding::fatal("no-new-files", text)
        });
    }
    let mode = seen.directory.mode;
    if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
        findings.push(Finding::limit(
            "anybody-may-replace",
            "everybody may delete and replace files in the directory, lock files too (chmod +t it, or use \
             another one)",
        ));
    }
    if let Ok(scratch) = &seen.scratch {
        if scratch.owner != seen.user {
            findings.push(Finding::limit(
                "squashed",
                format!(
                    "new files belong to user {} and not to user {}, who made them (root squash, or a mount \
                     with uid=): permissions are not what they seem",
                    scratch.owner, seen.user
                ),
            ));
        }
        if scratch.ahead_ms.unsigned_abs() > CLOCK_MS {
            let seconds = scratch.ahead_ms / 1000;
            let way = if seconds > 0 { "ahead of" } else { "behind" };
            findings.push(Finding::limit(
                "clock",
                format!(
                    "the filesystem's clock is {} s {way} this machine's: ages of files mean little, and so \
                     does whatever takes a lock file for stale by its age",
                    seconds.abs()
                ),
            ));
        }
    }
    findings
}

/// Why nothing in it can be a lock file for this user.
fn of_the_directory(seen: &Seen) -> Option<Finding> {
    if seen.directory.removed {
        let text = "the directory has been removed: there is no file in it, and none can be made";
        return Some(Finding::fatal("no-place", text));
    }
    let errno = seen.directory.no_search.as_ref()?;
    let text = format!(
        "nothing in the directory can be opened ({errno}): its permissions (mode {:04o}) do not allow this \
         user to search it",
        seen.directory.mode
    );
    Some(Finding::fatal("no-permission", text))
}

fn of_the_file(file: &FileSeen, seen: &Seen, findings: &mut Vec<Finding>) {
    match file.kind {
        KindSeen::Regular | KindSeen::Directory => {}
        KindSeen::Link => findings.push(Finding::limit(
            "link",
            "it is a symbolic link, which lockmgr does not follow and other programs do; name its target",
        )),
        KindSeen::Other => findings.push(Finding::fatal(
            "no-file",
            "it is a FIFO, a socket or a device, and cannot be a lock file",
        )),
    }
    if file.mounted_itself {
        findings.push(Finding::limit(
            "mounted-itself",
            "it is a mount point of its own: what was tried out in its directory need not hold for it, and \
             it cannot be replaced or removed",
        ));
    }
    match (&file.no_reading, &file.no_writing) {
        (Some(errno), Some(_)) => findings.push(Finding::fatal(
            "no-permission",
            format!("it cannot be opened ({errno}): its permissions (mode {:04o}) do not allow it", file.mode),
        )),
        (None, Some(errno)) => findings.push(Finding::limit(
            "cannot-write",
            format!(
                "it can only be read ({errno}): enough for flock and for shared record locks, not for \
                 exclusive ones; nor can a holder say who it is"
            ),
        )),
        _ => {}
    }
    if is_protected(file, seen) {
        findings.push(Finding::limit(
            "protected-regular",
            format!(
                "it lies in a sticky directory and belongs to user {}: with fs.protected_regular={} others \
                 are refused when they open it with O_CREAT, as most programs do (lockmgr tries without \
                 first)",
                file.owner, seen.protected_regular
            ),
        ));
    }
}

/// The rule of the kernel, `may_create_in_sticky`: who opens it with `O_CREAT` must own it, or the owner
/// of the directory must.
fn is_protected(file: &FileSeen, seen: &Seen) -> bool {
    let mode = seen.directory.mode;
    let public = match seen.protected_regular {
        0 => false,
        1 => mode & OTHERS_WRITE != 0,
        _ => mode & (OTHERS_WRITE | GROUP_WRITES) != 0,
    };
    file.kind == KindSeen::Regular
        && mode & STICKY != 0
        && public
        && file.owner != seen.directory.owner
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::look::{DirectorySeen, ScratchSeen};
    use super::*;

    fn seen() -> Seen {
        Seen {
            place: None,
            directory: directory(0o755),
            file: None,
            is_directory: true,
            scratch: Ok(ScratchSeen { owner: 0, ahead_ms: 0 }),
            protected_regular: 1,
            user: 0,
            locks: Vec::new(),
            locks_told: String::new(),
            locked_files: 0,
        }
    }

    fn directory(mode: u32) -> DirectorySeen {
        DirectorySeen { mode, owner: 0, no_search: None, removed: false }
    }

    fn regular() -> FileSeen {
        FileSeen {
            kind: KindSeen::Regular,
            mode: 0o644,
            owner: 0,
            mounted_itself: false,
            no_reading: None,
            no_writing: None,
        }
    }

    fn codes(seen: &Seen) -> String {
        found(seen).iter().map(|finding| finding.code).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_ordinary_place_has_no_traps() {
        assert_eq!(codes(&seen()), "");
        assert_eq!(codes(&Seen { file: Some(regular()), ..seen() }), "");
    }

    #[test]
    fn each_trap_is_named() {
        let tmp = || directory(0o1777);
        let foreign = || FileSeen { owner: 1000, ..regular() };
        let of_file = |file| codes(&Seen { file: Some(file), ..seen() });
        assert_eq!(
            codes(&Seen { directory: tmp(), file: Some(foreign()), ..seen() }),
            "protected-regular"
        );
        assert_eq!(codes(&Seen { directory: tmp(), file: Some(regular()), ..seen() }), "");
        let off = Seen { directory: tmp(), file: Some(foreign()), protected_regular: 0, ..seen() };
        assert_eq!(codes(&off), "");
        let group = || directory(0o1775);
        let one = Seen { directory: group(), file: Some(foreign()), ..seen() };
        assert_eq!(codes(&one), "");
        assert_eq!(codes(&Seen { protected_regular: 2, ..one }), "protected-regular");

        assert_eq!(codes(&Seen { directory: directory(0o777), ..seen() }), "anybody-may-replace");
        let full = Seen { scratch: Err("EROFS".into()), ..seen() };
        assert_eq!((codes(&full), found(&full)[0].level), ("no-new-files".into(), Level::Limit));
        let closed = DirectorySeen { no_search: Some("EACCES".into()), ..directory(0o700) };
        let closed = Seen { directory: closed, scratch: Err("EACCES".into()), ..seen() };
        assert_eq!(
            (codes(&closed), found(&closed)[0].level),
            ("no-permission".into(), Level::Fatal)
        );
        let removed = DirectorySeen { removed: true, ..directory(0o755) };
        let removed = Seen { directory: removed, scratch: Err("ENOENT".into()), ..seen() };
        assert_eq!((codes(&removed), found(&removed)[0].level), ("no-place".into(), Level::Fatal));
        let not_there = Seen { is_directory: false, ..full };
        assert_eq!(found(&not_there)[0].level, Level::Fatal);
        let squashed = Ok(ScratchSeen { owner: 65534, ahead_ms: -90_000 });
        assert_eq!(codes(&Seen { scratch: squashed, ..seen() }), "squashed clock");
        assert_eq!(of_file(FileSeen { kind: KindSeen::Link, ..regular() }), "link");
        assert_eq!(of_file(FileSeen { kind: KindSeen::Other, ..regular() }), "no-file");
        assert_eq!(of_file(FileSeen { mounted_itself: true, ..regular() }), "mounted-itself");
        let errno = || Some("EACCES".to_owned());
        assert_eq!(of_file(FileSeen { no_writing: errno(), ..regular() }), "cannot-write");
        let none = FileSeen { no_reading: errno(), no_writing: errno(), ..regular() };
        assert_eq!(of_file(none), "no-permission");
    }
}
