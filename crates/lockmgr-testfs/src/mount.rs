//! Mounting, in a namespace of the thread's own, and unmounting.

use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::Kind;
use crate::fuse::{self, KIND, Locks, ODD, PLACE, READY};

/// mkfs.xfs makes nothing smaller. The image is sparse.
const IMAGE_SIZE: u64 = 320 << 20;

/// Why a filesystem cannot be had here.
#[derive(Debug)]
pub struct Skipped {
    kind: Kind,
    reason: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} to test on: {}", self.kind.name(), self.reason)
    }
}

impl std::error::Error for Skipped {}

/// The program that serves the FUSE filesystems, in a process of its own.
#[derive(Clone, Debug)]
pub struct Server {
    program: PathBuf,
    args: Vec<OsString>,
    odd: bool,
}

impl Server {
    /// This very test program, in which the test of this full name calls [`serve`](crate::serve).
    ///
    /// # Panics
    /// If the system does not tell which program this is.
    #[must_use]
    pub fn of_test(name: &str) -> Self {
        let args = [name, "--exact", "--nocapture", "--test-threads=1"];
        let program = std::env::current_exe().expect("a running program has a file");
        Self { program, args: args.map(OsString::from).to_vec(), odd: false }
    }

    /// Any program that calls [`serve`](crate::serve) first of all.
    #[must_use]
    pub fn of_program(program: &Path) -> Self {
        Self { program: program.to_path_buf(), args: Vec::new(), odd: false }
    }

    /// One on which new files belong to nobody (as with root squash), and whose clock is an hour behind.
    #[must_use]
    pub fn odd(self) -> Self {
        Self { odd: true, ..self }
    }

    fn command(&self, locks: Locks, place: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env(KIND, locks.name()).env(PLACE, place);
        if self.odd {
            command.env(ODD, "1");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command
    }
}

/// A mounted filesystem; unmounted when dropped.
#[derive(Debug)]
pub struct TestFs {
    kind: Kind,
    root: PathBuf,
    server: Option<Child>,
    /// Mount points, the last one on top.
    mounted: Vec<PathBuf>,
    /// Removed last, when nothing is mounted in it any more.
    _dir: TempDir,
}

impl TestFs {
    /// Makes and mounts one, for this thread and those that it starts from now on.
    ///
    /// # Errors
    /// [`Skipped`] where that is not permitted, or the kernel or a program for it is missing.
    pub fn mount(kind: Kind, server: &Server) -> Result<Self, Skipped> {
        let skipped = |reason| Skipped { kind, reason };
        enter_private_namespace().map_err(skipped)?;
        let dir = TempDir::with_prefix("lockmgr-testfs-")
            .map_err(|error| skipped(format!("cannot make a temporary directory: {error}")))?;
        let root = dir.path().join("mnt");
        let made = fs::create_dir(&root).map_err(|error| error.to_string());
        let mut this = Self { kind, root, server: None, mounted: Vec::new(), _dir: dir };
        made.and_then(|()| this.fill(server)).map_err(skipped)?;
        Ok(this)
    }

    fn fill(&mut self, server: &Server) -> Result<(), String> {
        let root = self.root.clone();
        match self.kind {
            Kind::Ext4 => self.mount_image("ext4", &["-q", "-F"]),
            Kind::Xfs => self.mount_image("xfs", &["-q"]),
            Kind::Btrfs => self.mount_image("btrfs", &["-q"]),
            Kind::Tmpfs => self.mount_at(&root, &["-t", "tmpfs", "lockmgr-testfs"]),
            Kind::Overlay => self.mount_overlay(),
            Kind::Fuse(locks) => self.start(server, locks),
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The process that serves it, if it is a FUSE filesystem.
    #[must_use]
    pub fn server_pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Stops the server: from now on no call on the filesystem ends, until [`thaw`](Self::thaw) or the
    /// drop.
    ///
    /// # Panics
    /// If there is no server, or it cannot be stopped.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets the server go on.
    ///
    /// # Panics
    /// As [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let server = self.server.as_ref().expect("a FUSE filesystem has a server");
        kill_process(Pid::from_child(server), signal).expect("it is our child");
    }

    fn mount_image(&mut self, kind: &str, options: &[&str]) -> Result<(), String> {
        let image = self.root.with_file_name("image");
        File::create(&image)
            .and_then(|file| file.set_len(IMAGE_SIZE))
            .map_err(|error| format!("cannot make an image: {error}"))?;
        let mut make = Command::new(format!("mkfs.{kind}"));
        run(make.args(options).arg(&image))?;
        let root = self.root.clone();
        // The loop device goes with the mount: mount(8) sees to that.
        self.mount_at(
            &root,
            &["-t".as_ref(), kind.as_ref(), "-o".as_ref(), "loop".as_ref(), image.as_os_str()],
        )?;
        // The device has it open: it goes with the device, even if nobody is left to remove it.
        fs::remove_file(&image).map_err(|error| format!("cannot remove the image: {error}"))
    }

    fn mount_overlay(&mut self) -> Result<(), String> {
        // Not every filesystem can be the upper one.
        let base = self.root.with_file_name("base");
        let make = |path: &Path| fs::create_dir(path).map_err(|error| error.to_string());
        make(&base)?;
        self.mount_at(&base, &["-t", "tmpfs", "lockmgr-testfs"])?;
        let mut options = OsString::new();
        for (index, name) in ["lowerdir", "upperdir", "workdir"].into_iter().enumerate() {
            let path = base.join(name);
            make(&path)?;
            options.push(format!("{}{name}=", if index == 0 { "" } else { "," }));
            options.push(path);
        }
        let root = self.root.clone();
        self.mount_at(
            &root,
            &[
                "-t".as_ref(),
                "overlay".as_ref(),
                "-o".as_ref(),
                options.as_os_str(),
                "overlay".as_ref(),
            ],
        )
    }

    fn mount_at(&mut self, place: &Path, args: &[impl AsRef<OsStr>]) -> Result<(), String> {
        run(Command::new("mount").args(args).arg(place))?;
        self.mounted.push(place.to_path_buf());
        Ok(())
    }

    fn start(&mut self, server: &Server, locks: Locks) -> Result<(), String> {
        if !Path::new(fuse::DEVICE).exists() {
            return Err(format!("there is no {}", fuse::DEVICE));
        }
        let child = server.command(locks, &self.root).spawn();
        let child = child.map_err(|error| format!("cannot start the FUSE server: {error}"))?;
        let child = self.server.insert(child);
        let output = child.stdout.as_mut().ok_or("the FUSE server has no output")?;
        // Beside it there is what the test harness prints.
        let told = BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix(READY).map(str::to_owned));
        match told.as_deref() {
            Some("") => {
                self.mounted.push(self.root.clone());
                Ok(())
            }
            Some(error) => Err(format!("cannot mount: {error}")),
            None => Err("the FUSE server ended at once".into()),
        }
    }
}

impl Drop for TestFs {
    fn drop(&mut self) {
        // Its end also ends every call that it has not answered.
        if let Some(mut server) = self.server.take() {
            drop(server.kill());
            drop(server.wait());
        }
        for place in self.mounted.drain(..).rev() {
            // It may be gone with its server; whoever is still in it keeps it, but no path leads there.
            let _gone = umount2(&place, MntFlags::MNT_DETACH);
        }
    }
}

thread_local! {
    /// Whether this thread has a mount namespace of its own.
    static PRIVATE: OnceCell<Result<(), String>> = const { OnceCell::new() };
}

fn enter_private_namespace() -> Result<(), String> {
    let enter = || {
        if !rustix::process::geteuid().is_root() {
            return Err("it takes root to mount".to_owned());
        }
        let told = |what: &'static str| move |error| format!("{what}: {error}");
        unshare(CloneFlags::CLONE_NEWNS).map_err(told("no mount namespace can be made"))?;
        // What is mounted here stays here.
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&Path>, "/", None::<&Path>, flags, None::<&Path>)
            .map_err(told("the mount namespace cannot be made private"))
    };
    PRIVATE.with(|private| private.get_or_init(enter).clone())
}

/// Runs a program to its end; an error says what it said.
fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot start {name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let mut said = String::new();
    let _unreadable = output.stderr.as_slice().read_to_string(&mut said);
    Err(format!("{name}: {}", said.trim().replace('\n', "; ")))
}
