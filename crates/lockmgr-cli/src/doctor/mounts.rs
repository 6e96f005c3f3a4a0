//! What a filesystem and its mount options mean for locks. Pure: a line of the table of mounts goes in.
//!
//! References: `nfs(5)` (`local_lock`, `lock`), `mount.cifs(8)` (`nobrl`, `forcemandatorylock`), `mount.lustre(8)`,
//! the kernel's `Documentation/filesystems/` on 9p, ceph, fuse, gfs2, ocfs2, overlayfs and virtiofs.

use serde::Serialize;

use super::finding::Finding;
use crate::lab::place::Place;

/// Whom a lock keeps out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reach {
    /// Everybody: the files are this machine's own.
    Local,
    /// Everybody: a server keeps the locks of all machines.
    Server,
    /// This machine; others that reach the same files are not kept out.
    ThisMachine,
    /// What others see of the locks is not known.
    Unknown,
}

impl Reach {
    pub(super) fn told(self) -> &'static str {
        match self {
            Reach::Local => "this machine's own files and locks",
            Reach::Server => "a server keeps the locks, for all machines",
            Reach::ThisMachine => "locks keep out processes of this machine, and no others",
            Reach::Unknown => "whether other machines see the locks is not known",
        }
    }
}

/// What is known without trying anything.
#[derive(Debug)]
pub(super) struct Nature {
    pub(super) reach: Reach,
    pub(super) findings: Vec<Finding>,
}

/// Filesystems on which nobody else has the files.
const LOCAL: [&str; 30] = [
    "ext2",
    "ext3",
    "ext4",
    "xfs",
    "btrfs",
    "tmpfs",
    "ramfs",
    "f2fs",
    "zfs",
    "bcachefs",
    "jfs",
    "nilfs2",
    "reiserfs",
    "vfat",
    "msdos",
    "exfat",
    "ntfs",
    "ntfs3",
    "hfs",
    "hfsplus",
    "iso9660",
    "udf",
    "squashfs",
    "erofs",
    "cramfs",
    "ubifs",
    "jffs2",
    "minix",
    "devtmpfs",
    "hugetlbfs",
];

/// FUSE filesystems over the network whose servers are known to leave locks to this kernel, or to drop them.
const FUSE_ON_THIS_MACHINE: [&str; 8] =
    ["sshfs", "rclone", "s3fs", "gcsfuse", "goofys", "gvfsd-fuse", "davfs2", "curlftpfs"];

/// FUSE filesystems on local files.
const FUSE_LOCAL: [&str; 7] =
    ["ntfs-3g", "exfat", "mergerfs", "bindfs", "gocryptfs", "encfs", "fuse-overlayfs"];

struct Options<'a>(&'a str);

impl<'a> Options<'a> {
    fn has(&self, name: &str) -> bool {
        self.0.split(',').any(|one| one == name)
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        let value = |one: &'a str| one.split_once('=').filter(|(key, _)| *key == name);
        self.0.split(',').find_map(value).map(|(_, value)| value)
    }
}

/// Reads a line of the table of mounts.
pub(super) fn nature_of(place: &Place) -> Nature {
    let options = Options(&place.options);
    let mut findings = Vec::new();
    if options.has("ro") {
        findings.push(Finding::limit(
            "read-only",
            "it is mounted read-only: no lock file can be made, and of one that is there only flock can be \
             had exclusively",
        ));
    }
    let kind = place.kind.as_str();
    let reach = match kind {
        "nfs" | "nfs4" => nfs(kind, &options, &mut findings),
        "cifs" | "smb3" | "smbfs" => smb(&options, &mut findings),
        "overlay" => {
            findings.push(Finding::note(
                "overlay",
                "the locks belong to this overlay: a container with another one over the same lower \
                 directory does not see them",
            ));
            Reach::Local
        }
        "9p" => {
            findings.push(Finding::limit(
                "9p",
                "what the host does about locks is its own affair (QEMU grants all of them): count on \
                 them between processes of this machine only",
            ));
            Reach::ThisMachine
        }
        "virtiofs" => {
            findings.push(Finding::limit(
                "virtiofs",
                "unless the host's virtiofsd was told to keep locks, this guest keeps its own, and the host \
                 and other guests do not see them",
            ));
            Reach::ThisMachine
        }
        "vboxsf" | "vmhgfs" | "prl_fs" | "fuse.vmhgfs-fuse" => {
            findings.push(Finding::limit(
                "shared-folder",
                "a folder shared with the host: the host does not see locks of this machine",
            ));
            Reach::ThisMachine
        }
        "ceph" | "fuse.ceph-fuse" | "fuse.glusterfs" | "fuse.juicefs" | "fuse.mfs" | "afs" => {
            findings.push(lost_with_the_server());
            Reach::Server
        }
        "gfs2" | "ocfs2" => cluster(&options, &mut findings),
        "lustre" => lustre(&options, &mut findings),
        "proc" | "sysfs" | "cgroup" | "cgroup2" | "debugfs" | "tracefs" | "securityfs"
        | "configfs" => {
            findings.push(Finding::fatal(
                "no-place",
                format!("{kind} shows the kernel's own state and is no place for lock files"),
            ));
            Reach::Local
        }
        "autofs" => {
            findings.push(Finding::note(
                "autofs",
                "nothing is mounted here yet; what will be, is not known",
            ));
            Reach::Unknown
        }
        "fuse" | "fuseblk" => fuse("", kind, &mut findings),
        _ if kind.starts_with("fuse.") => fuse(&kind[5..], kind, &mut findings),
        _ if LOCAL.contains(&kind) => Reach::Local,
        _ => {
            findings.push(Finding::limit(
                "unknown-filesystem",
                format!(
                    "whether others than this machine reach files on {kind} is not known to lockmgr"
                ),
            ));
            Reach::Unknown
        }
    };
    Nature { reach, findings }
}

fn lost_with_the_server() -> Finding {
    Finding::note(
        "server",
        "a server that is cut off or restarts can take a lock away from its holder: have what is guarded \
         check a fencing token",
    )
}

fn nfs(kind: &str, options: &Options<'_>, findings: &mut Vec<Finding>) -> Reach {
    let version = options.value("vers").unwrap_or(if kind == "nfs4" { "4" } else { "3" });
    let local = match options.value("local_lock") {
        _ if options.has("nolock") => "all",
        Some(local) => local,
        None => "none",
    };
    if options.has("soft") || options.has("softerr") {
        findings.push(Finding::limit(
            "nfs-soft",
            "mounted soft: a call that the server is slow to answer fails (EIO, ETIMEDOUT), lock calls too; \
             mount it hard",
        ));
    }
    let told = match local {
        "all" => Some("flock and record locks are kept on this machine (nolock or local_lock=all)"),
        "flock" => Some(
            "flock locks are kept on this machine (local_lock=flock); record locks are the server's",
        ),
        "posix" => {
            Some("record locks are kept on this machine (local_lock=posix); flock is the server's")
        }
        _ => None,
    };
    if let Some(told) = told {
        findings.push(Finding::limit(
            "nfs-local",
            format!("{told}: other clients of the server are not kept out by them"),
        ));
    }
    if local == "all" {
        return Reach::ThisMachine;
    }
    if version.starts_with('4') {
        findings.push(lost_with_the_server());
    } else {
        findings.push(Finding::note(
            "nfs-lockd",
            "before NFS version 4 locks need the lock service (lockd, rpc.statd) on both sides",
        ));
    }
    if local == "flock" { Reach::ThisMachine } else { Reach::Server }
}

fn smb(options: &Options<'_>, findings: &mut Vec<Finding>) -> Reach {
    if options.has("nobrl") {
        findings.push(Finding::limit(
            "smb-nobrl",
            "mounted with nobrl: no lock reaches the server, so other clients are not kept out",
        ));
        return Reach::ThisMachine;
    }
    let advisory =
        (options.has("unix") || options.has("posix")) && !options.has("forcemandatorylock");
    if !advisory {
        findings.push(Finding::limit(
            "smb-mandatory",
            "the server enforces locks: others cannot even read or write the locked bytes, so what is \
             guarded must lie in another file",
        ));
    }
    findings.push(lost_with_the_server());
    Reach::Server
}

fn cluster(options: &Options<'_>, findings: &mut Vec<Finding>) -> Reach {
    if options.has("localflocks") {
        findings.push(Finding::limit(
            "cluster-local",
            "mounted with localflocks: other nodes of the cluster are not kept out",
        ));
        return Reach::ThisMachine;
    }
    Reach::Server
}

fn lustre(options: &Options<'_>, findings: &mut Vec<Finding>) -> Reach {
    if options.has("localflock") {
        findings.push(Finding::limit(
            "cluster-local",
            "mounted with localflock: other clients are not kept out; mount it with flock",
        ));
        return Reach::ThisMachine;
    }
    if options.has("flock") {
        return Reach::Server;
    }
    findings.push(Finding::limit(
        "cluster-local",
        "the options do not say that locks are kept for all clients; mount it with flock",
    ));
    Reach::Unknown
}

fn fuse(of: &str, kind: &str, findings: &mut Vec<Finding>) -> Reach {
    if kind == "fuseblk" || FUSE_LOCAL.contains(&of) {
        return Reach::Local;
    }
    if FUSE_ON_THIS_MACHINE.contains(&of) {
        findings.push(Finding::limit(
            "fuse-this-machine",
            format!("{of} leaves locks to this machine: others that reach the same files are not kept out"),
        ));
        return Reach::ThisMachine;
    }
    // Who keeps the locks, trying them out tells.
    Reach::Unknown
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Level, Verdict};
    use super::*;

    #[track_caller]
    fn nature(line: &str) -> Nature {
        nature_of(&Place::parse(line).expect("a line of the table of mounts"))
    }

    /// Lines of `/proc/self/mountinfo`, what is known of the locks there, and the codes of the findings.
    const LINES: [(&str, Reach, &str); 32] = [
        (
            "28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro",
            Reach::Local,
            "",
        ),
        ("28 1 0:25 / /run rw,nosuid - tmpfs tmpfs rw,size=1k,mode=755", Reach::Local, ""),
        ("28 1 0:33 /@ / rw,relatime shared:1 - btrfs /dev/sda2 rw,subvol=/@", Reach::Local, ""),
        ("28 1 8:1 / /mnt ro,relatime - ext4 /dev/sda1 ro", Reach::Local, "read-only"),
        (
            "9 1 0:50 / /m rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w",
            Reach::Local,
            "overlay",
        ),
        (
            "9 1 0:50 / /n rw - nfs4 s:/e rw,vers=4.2,hard,proto=tcp,local_lock=none,addr=10.0.0.1",
            Reach::Server,
            "server",
        ),
        (
            "9 1 0:50 / /n rw - nfs4 s:/e rw,vers=4.1,soft,local_lock=none",
            Reach::Server,
            "nfs-soft server",
        ),
        (
            "9 1 0:50 / /n rw - nfs s:/e rw,vers=3,hard,mountproto=udp,local_lock=none",
            Reach::Server,
            "nfs-lockd",
        ),
        (
            "9 1 0:50 / /n rw - nfs s:/e rw,vers=3,hard,nolock,local_lock=all",
            Reach::ThisMachine,
            "nfs-local",
        ),
        (
            "9 1 0:50 / /n rw - nfs s:/e rw,vers=3,local_lock=flock",
            Reach::ThisMachine,
            "nfs-local nfs-lockd",
        ),
        (
            "9 1 0:50 / /n rw - nfs s:/e rw,vers=3,local_lock=posix",
            Reach::Server,
            "nfs-local nfs-lockd",
        ),
        (
            "9 1 0:50 / /s rw - cifs //s/e rw,vers=3.1.1,cache=strict,uid=0,nobrl,soft",
            Reach::ThisMachine,
            "smb-nobrl",
        ),
        (
            "9 1 0:50 / /s rw - cifs //s/e rw,vers=3.0,cache=strict,soft,nounix",
            Reach::Server,
            "smb-mandatory server",
        ),
        ("9 1 0:50 / /s rw - smb3 //s/e rw,vers=3.1.1,posix", Reach::Server, "server"),
        (
            "9 1 0:50 / /s rw - cifs //s/e rw,vers=1.0,unix,forcemandatorylock",
            Reach::Server,
            "smb-mandatory server",
        ),
        (
            "9 1 0:50 / /p rw - 9p hostshare rw,trans=virtio,version=9p2000.L",
            Reach::ThisMachine,
            "9p",
        ),
        ("9 1 0:50 / /p rw - virtiofs share rw", Reach::ThisMachine, "virtiofs"),
        ("9 1 0:50 / /p rw - vboxsf share rw", Reach::ThisMachine, "shared-folder"),
        ("9 1 0:50 / /c rw - ceph 10.0.0.1:6789:/ rw,name=admin,acl", Reach::Server, "server"),
        ("9 1 0:50 / /g rw - gfs2 /dev/vg/g rw,localflocks", Reach::ThisMachine, "cluster-local"),
        ("9 1 0:50 / /g rw - ocfs2 /dev/vg/g rw,heartbeat=local", Reach::Server, ""),
        ("9 1 0:50 / /l rw - lustre mgs@tcp:/fs rw,flock,lazystatfs", Reach::Server, ""),
        (
            "9 1 0:50 / /l rw - lustre mgs@tcp:/fs rw,localflock",
            Reach::ThisMachine,
            "cluster-local",
        ),
        ("9 1 0:50 / /l rw - lustre mgs@tcp:/fs rw,noflock", Reach::Unknown, "cluster-local"),
        (
            "9 1 0:50 / /f rw - fuse.sshfs u@h: rw,user_id=1000",
            Reach::ThisMachine,
            "fuse-this-machine",
        ),
        ("9 1 8:2 / /f rw - fuseblk /dev/sdb1 rw,user_id=0", Reach::Local, ""),
        ("9 1 0:50 / /f rw - fuse.mergerfs a:b rw", Reach::Local, ""),
        ("9 1 0:50 / /f rw - fuse.glusterfs h:/v rw", Reach::Server, "server"),
        ("9 1 0:50 / /f rw - fuse lockmgr rw,user_id=0", Reach::Unknown, ""),
        ("9 1 0:5 / /proc rw - proc proc rw", Reach::Local, "no-place"),
        ("9 1 0:5 / /h rw - autofs systemd-1 rw,fd=40", Reach::Unknown, "autofs"),
        ("9 1 0:5 / /h rw - newfs x rw", Reach::Unknown, "unknown-filesystem"),
    ];

    #[test]
    fn mount_options_are_understood() {
        for (line, reach, codes) in LINES {
            let nature = nature(line);
            assert_eq!(nature.reach, reach, "{line}");
            let found: Vec<_> = nature.findings.iter().map(|finding| finding.code).collect();
            assert_eq!(found.join(" "), codes, "{line}");
        }
    }

    #[test]
    fn what_is_only_on_this_machine_is_never_fine() {
        for line in [
            "9 1 0:50 / /n rw - nfs s:/e rw,vers=3,nolock",
            "9 1 0:50 / /s rw - cifs //s/e rw,nobrl",
            "9 1 0:50 / /f rw - fuse.s3fs s3fs rw",
            "9 1 0:50 / /p rw - virtiofs s rw",
        ] {
            let nature = nature(line);
            assert_eq!(nature.reach, Reach::ThisMachine, "{line}");
            assert_eq!(Verdict::of(&nature.findings), Verdict::Limits, "{line}");
        }
    }

    /// `rw` of the mount and `ro` of the filesystem: the table shows both.
    #[test]
    fn either_read_only_counts_and_similar_words_do_not() {
        let is_limit = |line| nature(line).findings.iter().any(|one| one.level == Level::Limit);
        assert!(is_limit("9 1 8:1 / /m rw,relatime - ext4 /dev/sda1 ro"));
        assert!(!is_limit("9 1 8:1 / /m rw,relatime - ext4 /dev/sda1 rw,errors=ro,quota=ro"));
        assert!(!is_limit(
            "9 1 0:50 / /n rw - nfs4 s:/e rw,vers=4.2,softreval,nolocks,local_lock=none"
        ));
    }
}
