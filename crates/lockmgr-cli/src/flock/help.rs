//! The texts of `--help` and `--version`, which are the original's.

/// Behind the program's name: what scripts compare versions with. It ends in a number, as they expect.
pub(super) const VERSION: &[u8] = b" from util-linux 2.43\n";

/// What stands behind the program's name in each line of the usage.
const USAGE: [&[u8]; 5] = [
    b"<file>|<directory> <command> [<argument>...]",
    b"<file>|<directory> -c <command>",
    b"<file descriptor number>",
    b"--fd <file descriptor number> -c <command>",
    b"--fd <file descriptor number> <command> [<argument>...]",
];

/// The text of `--help` of the program of this name.
pub(super) fn text(name: &[u8]) -> Vec<u8> {
    let line = |words: &[u8]| [b" ", name, b" [options] ", words, b"\n"].concat();
    [b"\nUsage:\n", &USAGE.map(line).concat()[..], HELP].concat()
}

const HELP: &[u8] = b"
Manage file locks from shell scripts.

Options:
 -s, --shared             get a shared lock
 -x, --exclusive          get an exclusive lock (default)
 -u, --unlock             remove a lock
 -n, --nonblock           fail rather than wait
 -w, --timeout <secs>     wait for a limited amount of time
 -E, --conflict-exit-code <number>  exit code after conflict or timeout
 -o, --close              close file descriptor before running command
 -c, --command <command>  run a single command string through the shell
 -F, --no-fork            execute command without forking
     --fcntl              use fcntl(F_OFD_SETLK) rather than flock()
     --start <offset>     starting offset for lock (implies --fcntl)
     --length <number>    number of bytes to lock (implies --fcntl)
     --fd <number>        file descriptor to lock
     --verbose            increase verbosity

 -h, --help               display this help
 -V, --version            display version

For more details see flock(1).
";
