//! `lockmgr lab sizes`: what fcntl(2) is given, as the compiler and the C library have it here.
//!
//! Nothing is typed in: sizes, places and signs are the compiler's, the numbers those of the `libc` crate,
//! which are the C library's.

use std::fmt::Write;
use std::mem::{offset_of, size_of};

use serde::Serialize;

use crate::cli::SizesArgs;
use crate::exit::{self, Failure, Status};
use crate::json;
use crate::show::{self, Screen, Style};

#[derive(Serialize)]
struct Sizes {
    platform: String,
    structure: Structure,
    constants: Vec<Constant>,
}

#[derive(Serialize)]
struct Structure {
    name: &'static str,
    size: usize,
    align: usize,
    members: Vec<Member>,
    /// For Python's `struct` module.
    python_format: String,
}

#[derive(Serialize)]
struct Member {
    name: &'static str,
    offset: usize,
    size: usize,
    signed: bool,
}

#[derive(Serialize)]
struct Constant {
    name: &'static str,
    value: i64,
}

/// An integer, and whether it has a sign.
trait Integer: Copy {
    const SIGNED: bool;
}

macro_rules! integers {
    ($($type:ty)*) => {
        $(impl Integer for $type { const SIGNED: bool = <$type>::MIN != 0; })*
    };
}

integers! { i8 u8 i16 u16 i32 u32 i64 u64 }

/// Size and sign of the type of a member that is never read.
fn kind<T: Integer>(_member: fn(&libc::flock) -> T) -> (usize, bool) {
    (size_of::<T>(), T::SIGNED)
}

fn structure() -> Structure {
    macro_rules! members {
        ($($name:ident)*) => {
            vec![$({
                let (size, signed) = kind(|lock| lock.$name);
                Member { name: stringify!($name), offset: offset_of!(libc::flock, $name), size, signed }
            },)*]
        };
    }
    let mut members = members! { l_type l_whence l_start l_len l_pid };
    members.sort_by_key(|member| member.offset);
    let size = size_of::<libc::flock>();
    let python_format = python_format(&members, size);
    Structure {
        name: "struct flock",
        size,
        align: align_of::<libc::flock>(),
        members,
        python_format,
    }
}

/// `=hh4xqqi4x`: standard sizes, and every gap spelled out.
fn python_format(members: &[Member], size: usize) -> String {
    let mut format = String::from("=");
    let mut at = 0;
    let pad = |format: &mut String, from: usize, to: usize| {
        if to > from {
            let _ = write!(format, "{}x", to - from);
        }
    };
    for member in members {
        pad(&mut format, at, member.offset);
        let letter = match member.size {
            1 => 'b',
            2 => 'h',
            4 => 'i',
            _ => 'q',
        };
        format.push(if member.signed { letter } else { letter.to_ascii_uppercase() });
        at = member.offset + member.size;
    }
    pad(&mut format, at, size);
    format
}

fn constants() -> Vec<Constant> {
    macro_rules! constants {
        ($($name:ident)*) => {
            vec![$(Constant { name: stringify!($name), value: i64::from(libc::$name) },)*]
        };
    }
    constants! {
        F_GETLK F_SETLK F_SETLKW F_OFD_GETLK F_OFD_SETLK F_OFD_SETLKW
        F_RDLCK F_WRLCK F_UNLCK SEEK_SET SEEK_CUR SEEK_END
        LOCK_SH LOCK_EX LOCK_NB LOCK_UN
        F_ULOCK F_LOCK F_TLOCK F_TEST
        EAGAIN EWOULDBLOCK EACCES EDEADLK EINTR ENOLCK EBADF EINVAL
    }
}

pub(super) fn sizes(args: &SizesArgs) -> Result<Status, Failure> {
    let sizes = Sizes { platform: platform(), structure: structure(), constants: constants() };
    let text = if args.json { json::document("lab sizes", sizes)? } else { for_people(&sizes) };
    show::write(&text)?;
    Ok(exit::OK)
}

/// `linux x86_64 gnu, 64 bit, little endian`
fn platform() -> String {
    let library = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    let endian = if cfg!(target_endian = "little") { "little" } else { "big" };
    format!(
        "{} {} {library}, {} bit, {endian} endian",
        std::env::consts::OS,
        std::env::consts::ARCH,
        usize::BITS
    )
}

fn for_people(sizes: &Sizes) -> String {
    let screen = Screen::of_output();
    let Structure { name, size, align, members, python_format } = &sizes.structure;
    let mut text = format!("{}\n\n", screen.paint(Style::Heading, &sizes.platform));
    let heading = format!("{name}: {size} bytes, aligned to {align}");
    let _ = writeln!(text, "{}", screen.paint(Style::Heading, &heading));
    let _ = writeln!(text, "  {:10}  {:>6}  {:>5}", "member", "offset", "bytes");
    for member in members {
        let sign = if member.signed { "signed" } else { "unsigned" };
        let Member { name, offset, size, .. } = member;
        let _ = writeln!(text, "  {name:10}  {offset:>6}  {size:>5}  {sign}");
    }
    let _ = writeln!(text, "  for Python's struct module: \"{python_format}\"\n");
    let _ = writeln!(text, "{}", screen.paint(Style::Heading, "constants"));
    let width = sizes.constants.iter().map(|constant| constant.name.len()).max().unwrap_or(0);
    for Constant { name, value } in &sizes.constants {
        let _ = writeln!(text, "  {name:width$}  {value:>3}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_has_every_gap() {
        let member = |offset, size, signed| Member { name: "x", offset, size, signed };
        let members =
            [member(0, 2, true), member(2, 2, false), member(8, 8, true), member(16, 4, true)];
        assert_eq!(python_format(&members, 24), "=hH4xqi4x");
    }

    #[test]
    fn members_cover_the_structure_in_order() {
        let structure = structure();
        assert_eq!(structure.members.len(), 5);
        let mut end = 0;
        for member in &structure.members {
            assert!(member.offset >= end && member.size > 0, "{}", member.name);
            end = member.offset + member.size;
        }
        assert!(end <= structure.size);
    }
}
