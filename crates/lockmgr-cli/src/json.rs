//! What `--json` prints: the documented schema, version 1 (`docs/json.md`).
//!
//! Nothing is lost: text that is no UTF-8 comes escaped, and once more as base64 of its bytes beside it.
//! Nothing is obeyed: what a terminal would act on is written as `\uXXXX`.

use std::collections::HashMap;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use lockmgr::Range;
use lockmgr::inspect::{
    self, ControlGroup, Deadlock, Gaps, Holder, Link, Lock, LockedFile, Process, Record, Waiter,
};
use serde::Serialize;

use crate::exit::{Failure, SYSTEM};
use crate::lab::errno;
use crate::say::is_safe;

/// Grows when something is renamed, removed or means something else; not when something is added.
const VERSION: u32 = 1;

/// One document.
#[derive(Serialize)]
struct Document<'a, T> {
    version: u32,
    command: &'a str,
    #[serde(flatten)]
    body: T,
}

/// One line with the document of a subcommand.
pub(crate) fn document(command: &str, body: impl Serialize) -> Result<String, Failure> {
    line(&Document { version: VERSION, command, body })
}

/// The value on one line.
pub(crate) fn line(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(value)
        .map_err(|error| Failure::new(SYSTEM, format!("cannot write JSON: {error}")))?;
    let mut safe = String::with_capacity(text.len() + 1);
    for character in text.chars() {
        // Outside of strings there is nothing but ASCII, so this is inside one.
        if is_safe(character)
            && !matches!(character, '\u{200b}'..='\u{200d}' | '\u{2028}' | '\u{2029}')
        {
            safe.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(safe, "\\u{unit:04x}").map_err(|_| Failure::new(SYSTEM, "out of memory"))?;
            }
        }
    }
    safe.push('\n');
    Ok(safe)
}

/// Text of a foreign origin, under the two keys that it is given.
fn text(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (inspect::printable(bytes), Some(base64(bytes))),
    }
}

#[derive(Serialize)]
pub(crate) struct PathJson {
    pub(crate) path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path_bytes: Option<String>,
}

impl PathJson {
    pub(crate) fn of(path: Option<&Path>) -> Self {
        match path.map(|path| text(path.as_os_str().as_bytes())) {
            Some((path, path_bytes)) => Self { path: Some(path), path_bytes },
            None => Self { path: None, path_bytes: None },
        }
    }
}

#[derive(Serialize)]
pub(crate) struct FileJson {
    #[serde(flatten)]
    path: PathJson,
    deleted: bool,
    inode: InodeJson,
    locks: Vec<LockJson>,
}

#[derive(Serialize)]
struct InodeJson {
    major: u32,
    minor: u32,
    number: u64,
}

#[derive(Serialize)]
struct RangeJson {
    start: u64,
    /// `null` for "to the end of the file".
    len: Option<u64>,
}

#[derive(Serialize)]
struct LockJson {
    kind: String,
    mode: String,
    range: RangeJson,
    gate: bool,
    holders: Vec<HolderJson>,
    waiters: Vec<WaiterJson>,
}

#[derive(Serialize)]
pub(crate) struct HolderJson {
    standing: String,
    descriptor: Option<u32>,
    process: Option<ProcessJson>,
}

#[derive(Serialize)]
struct WaiterJson {
    kind: String,
    mode: String,
    range: RangeJson,
    gate: bool,
    depth: usize,
    interchangeable: bool,
    thread: Option<u32>,
    descriptor: Option<u32>,
    process: Option<ProcessJson>,
}

#[derive(Clone, Serialize)]
pub(crate) struct ProcessJson {
    pid: u32,
    ended: bool,
    /// What follows is not told of a process that has ended.
    #[serde(flatten)]
    details: Option<DetailsJson>,
}

/// All of it is `null` where /proc hides the process.
#[derive(Clone, Default, Serialize)]
struct DetailsJson {
    start: Option<u64>,
    started: Option<String>,
    parent: Option<u32>,
    uid: Option<u32>,
    user: Option<String>,
    zombie: Option<bool>,
    ending: Option<bool>,
    name: Option<String>,
    command: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command_bytes: Option<Vec<String>>,
    executable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable_bytes: Option<String>,
    control_group: Option<ControlGroupJson>,
}

#[derive(Clone, Serialize)]
struct ControlGroupJson {
    path: String,
    unit: Option<String>,
    container: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct GapsJson {
    not_permitted: Vec<u32>,
    hidden: bool,
    pieced_together: bool,
    cut_short: bool,
    errno: Option<String>,
}

/// What a holder has written into the lock file.
#[derive(Serialize)]
pub(crate) struct RecordJson {
    pid: u32,
    start: u64,
    boot: String,
    host: String,
    user: String,
    pidns: u64,
    since: Option<String>,
    command: Vec<String>,
    note: Option<String>,
    token: Option<u64>,
    last_success: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct DeadlockJson {
    certain: bool,
    links: Vec<LinkJson>,
}

#[derive(Serialize)]
struct LinkJson {
    waiter: WaiterJson,
    #[serde(flatten)]
    path: PathJson,
    inode: InodeJson,
    kind: String,
    mode: String,
    range: RangeJson,
    holder: ProcessJson,
}

impl From<&Gaps> for GapsJson {
    fn from(gaps: &Gaps) -> Self {
        Self {
            not_permitted: gaps.not_permitted.clone(),
            hidden: gaps.hidden,
            pieced_together: gaps.pieced_together,
            cut_short: gaps.cut_short,
            errno: gaps.errno.map(errno::name),
        }
    }
}

impl From<&Record> for RecordJson {
    fn from(record: &Record) -> Self {
        Self {
            pid: record.pid,
            start: record.start,
            boot: record.boot.clone(),
            host: record.host.clone(),
            user: record.user.clone(),
            pidns: record.pidns,
            since: time(record.since),
            command: record.command.clone(),
            note: record.note.clone(),
            token: record.token,
            last_success: record.last_success.and_then(time),
        }
    }
}

impl From<Range> for RangeJson {
    fn from(range: Range) -> Self {
        Self { start: range.start(), len: range.len() }
    }
}

impl From<inspect::Inode> for InodeJson {
    fn from(inode: inspect::Inode) -> Self {
        Self { major: inode.major, minor: inode.minor, number: inode.number }
    }
}

/// Makes JSON of what the library tells. A process that appears many times is looked at once.
#[derive(Default)]
pub(crate) struct Teller {
    processes: HashMap<(u32, u64), ProcessJson>,
}

impl Teller {
    pub(crate) fn files(&mut self, files: &[LockedFile]) -> Vec<FileJson> {
        files.iter().map(|file| self.file(file)).collect()
    }

    pub(crate) fn file(&mut self, file: &LockedFile) -> FileJson {
        FileJson {
            path: PathJson::of(file.path.as_deref()),
            deleted: file.deleted,
            inode: file.inode.into(),
            locks: file.locks.iter().map(|lock| self.lock(lock)).collect(),
        }
    }

    fn lock(&mut self, lock: &Lock) -> LockJson {
        LockJson {
            kind: lock.kind.to_string(),
            mode: lock.mode.to_string(),
            range: lock.range.into(),
            gate: lock.is_gate(),
            holders: lock.holders.iter().map(|holder| self.holder(holder)).collect(),
            waiters: lock.waiters.iter().map(|waiter| self.waiter(waiter)).collect(),
        }
    }

    pub(crate) fn holder(&mut self, holder: &Holder) -> HolderJson {
        HolderJson {
            standing: holder.standing.to_string(),
            descriptor: holder.descriptor,
            process: holder.process.as_ref().map(|process| self.process(process)),
        }
    }

    fn waiter(&mut self, waiter: &Waiter) -> WaiterJson {
        WaiterJson {
            kind: waiter.kind.to_string(),
            mode: waiter.mode.to_string(),
            range: waiter.range.into(),
            gate: waiter.is_at_gate(),
            depth: waiter.depth,
            interchangeable: waiter.interchangeable,
            thread: waiter.thread,
            descriptor: waiter.descriptor,
            process: waiter.process.as_ref().map(|process| self.process(process)),
        }
    }

    pub(crate) fn process(&mut self, process: &Process) -> ProcessJson {
        let told = self.processes.entry((process.pid, process.start));
        told.or_insert_with(|| ProcessJson::of(process)).clone()
    }

    pub(crate) fn deadlock(&mut self, deadlock: &Deadlock) -> DeadlockJson {
        DeadlockJson {
            certain: deadlock.certain,
            links: deadlock.links.iter().map(|link| self.link(link)).collect(),
        }
    }

    fn link(&mut self, link: &Link) -> LinkJson {
        LinkJson {
            waiter: self.waiter(&link.waiter),
            path: PathJson::of(link.path.as_deref()),
            inode: link.inode.into(),
            kind: link.kind.to_string(),
            mode: link.mode.to_string(),
            range: link.range.into(),
            holder: self.process(&link.holder),
        }
    }
}

impl ProcessJson {
    fn of(process: &Process) -> Self {
        let details = (!process.ended).then(|| DetailsJson::of(process));
        Self { pid: process.pid, ended: process.ended, details }
    }

    /// As it was, and whether it has ended since.
    pub(crate) fn ended(self, ended: bool) -> Self {
        Self { ended: self.ended || ended, ..self }
    }
}

impl DetailsJson {
    fn of(process: &Process) -> Self {
        if !process.is_known() {
            return Self::default();
        }
        let words: Vec<_> = process.words().collect();
        let is_text = words.iter().all(|word| std::str::from_utf8(word).is_ok());
        let executable = process.executable().map(|path| text(path.as_os_str().as_bytes()));
        let (executable, executable_bytes) = executable.unzip();
        Self {
            start: Some(process.start),
            started: process.started().and_then(time),
            parent: Some(process.parent),
            uid: Some(process.uid),
            user: Some(process.user()),
            zombie: Some(process.zombie),
            ending: Some(process.ending),
            name: Some(text(&process.name).0),
            command: Some(words.iter().map(|word| text(word).0).collect()),
            command_bytes: (!is_text).then(|| words.iter().map(|word| base64(word)).collect()),
            executable,
            executable_bytes: executable_bytes.flatten(),
            control_group: process.control_group().map(|group| {
                let ControlGroup { path, unit, container, .. } = group;
                ControlGroupJson { path, unit, container }
            }),
        }
    }
}

/// A moment as RFC 3339 has it, in UTC, to a hundredth of a second.
pub(crate) fn time(moment: std::time::SystemTime) -> Option<String> {
    let moment = jiff::Timestamp::try_from(moment).ok()?;
    Some(format!("{moment:.2}"))
}

/// Bytes in the usual alphabet, padded.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut shown = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place)) & 0x3f;
            let is_padding = place > group.len();
            shown.push(if is_padding { '=' } else { char::from(ALPHABET[index as usize]) });
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_kept_in_base64() {
        for (bytes, shown) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes.as_bytes()), shown);
        }
        assert_eq!(base64(b"\xff\xfe\xfd"), "//79");
    }

    #[test]
    fn nothing_in_a_document_drives_a_terminal_and_nothing_is_lost() {
        #[derive(Serialize)]
        struct Body {
            text: &'static str,
        }
        let hostile = "a\x1b[2J\u{9b}\u{7f}\u{202e}\n\u{1f600}";
        let text = document("ls", Body { text: hostile }).unwrap();
        assert!(text.ends_with("}\n") && text.trim_end().chars().all(is_safe), "{text}");
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((back["version"].as_u64(), &back["text"]), (Some(1), &hostile.into()));
    }

    #[test]
    fn moments_are_told_in_universal_time() {
        let moment = std::time::UNIX_EPOCH + std::time::Duration::from_millis(1_700_000_000_129);
        assert_eq!(time(moment).as_deref(), Some("2023-11-14T22:13:20.12Z"));
    }
}
