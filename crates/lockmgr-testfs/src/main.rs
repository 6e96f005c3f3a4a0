//! `lockmgr-testfs KIND COMMAND…`: mounts a filesystem of this kind in a mount namespace of its own, runs
//! the command there, with the path as its last argument, and leaves nothing behind.

use std::env;
use std::process::{Command, ExitCode};

use lockmgr_testfs::{Kind, Server, TestFs};

fn main() -> ExitCode {
    lockmgr_testfs::serve();
    match run() {
        Ok(code) => code,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "whoever started it reads that")]
            {
                eprintln!("lockmgr-testfs: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut words = env::args_os().skip(1);
    let (Some(kind), Some(program)) = (words.next(), words.next()) else {
        let kinds = Kind::ALL.map(Kind::name).join("|");
        return Err(format!("usage: lockmgr-testfs {kinds} COMMAND [ARG…]").into());
    };
    let kind = kind.to_str().and_then(Kind::named).ok_or("there is no such kind of filesystem")?;
    let fs = TestFs::mount(kind, &Server::of_program(&env::current_exe()?))?;
    let status = Command::new(program).args(words).arg(fs.path()).status()?;
    Ok(u8::try_from(status.code().unwrap_or(1)).map_or(ExitCode::FAILURE, ExitCode::from))
}
