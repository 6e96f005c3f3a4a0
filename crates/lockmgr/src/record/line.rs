//! The line itself: from a [`Record`] to at most [`LONGEST`] bytes, and back.
//!
//! What outlives its holder stands in front, at the same place in every line, so that a write that stops
//! half-way does not lose it ([`mod@token`]). It always fits, and so does what has to be there to
//! confirm a record. The note and the command share what is left, and are cut between characters; `…` says that they were. Control
//! characters and those that turn the direction of writing are escaped: a lock file can be looked at
//! with `cat`.

use std::fmt::Write;
use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::token::{self, AGAIN, FIRST};
use super::{LONGEST, Lasting, PREFIX, Record, is_ours};

/// How many bytes each of these may take in the line, quotes included.
const BOOT: usize = 80;
const NAME: usize = 260;
/// The command gets what the note leaves.
const NOTE: usize = 1600;

/// What stands for the part that did not fit.
const CUT: char = '…';

/// Writes the record. `None` for a time that RFC 3339 has no words for.
pub(super) fn written(record: &Record) -> Option<Vec<u8>> {
    let mut head = beginning(Lasting { token: record.token, last_success: record.last_success });
    write!(head, ",\"pid\":{},\"start\":{}", record.pid, record.start).ok()?;
    for (name, text, room) in
        [("boot", &record.boot, BOOT), ("host", &record.host, NAME), ("user", &record.user, NAME)]
    {
        write!(head, ",\"{name}\":{}", Quoted::of(text, room).text).ok()?;
    }
    write!(head, ",\"pidns\":{},\"since\":\"{}\"", record.pidns, timestamp(record.since)?).ok()?;

    let mut tail = String::new();
    if let Some(note) = &record.note {
        write!(tail, ",\"note\":{}", Quoted::of(note, NOTE).text).ok()?;
    }
    tail.push_str(&ending(record.token));

    head.push_str(",\"command\":[");
    tail.insert(0, ']');
    push_words(&mut head, &record.command, LONGEST - tail.len());
    head.push_str(&tail);
    Some(head.into_bytes())
}

/// Whether the note is kept as it is.
pub(super) fn is_kept_whole(note: &str) -> bool {
    !Quoted::of(note, NOTE).cut
}

/// A record that tells of no holder, only of what outlives them.
pub(super) fn of_lasting(lasting: Lasting) -> Vec<u8> {
    (beginning(lasting) + &ending(lasting.token)).into_bytes()
}

fn beginning(lasting: Lasting) -> String {
    let mut line = String::with_capacity(512);
    line.push_str(&String::from_utf8_lossy(PREFIX));
    // A `String` takes everything.
    if let Some(token) = lasting.token.filter(|token| token::is_token(*token)) {
        let _ = write!(line, "{FIRST}{token}");
    }
    if let Some(last_success) = lasting.last_success.and_then(timestamp) {
        let _ = write!(line, ",\"last_success\":\"{last_success}\"");
    }
    line
}

fn ending(token: Option<u64>) -> String {
    let again = token.filter(|token| token::is_token(*token));
    again.map_or_else(String::new, |token| format!("{AGAIN}{token}")) + "}\n"
}

/// Appends as many of the words as fit, up to this length of the whole.
fn push_words(line: &mut String, words: &[String], limit: usize) {
    for (index, word) in words.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let room = limit.saturating_sub(line.len() + comma.len());
        if room < Quoted::LEAST {
            return;
        }
        let quoted = Quoted::of(word, room);
        line.push_str(comma);
        line.push_str(&quoted.text);
        if quoted.cut {
            return;
        }
    }
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    Timestamp::try_from(time).ok()
}

/// A JSON string.
struct Quoted {
    text: String,
    cut: bool,
}

impl Quoted {
    /// Two quotes and the sign for a cut.
    const LEAST: usize = 2 + CUT.len_utf8();

    /// As much of the text as fits into so many bytes, of which there are at least `LEAST`.
    fn of(text: &str, room: usize) -> Self {
        let mut quoted = String::with_capacity(text.len().min(room) + 2);
        quoted.push('"');
        // Where to cut, should the rest not fit.
        let mut cut_at = quoted.len();
        for character in text.chars() {
            push_escaped(&mut quoted, character);
            if quoted.len() < room {
                if quoted.len() + CUT.len_utf8() < room {
                    cut_at = quoted.len();
                }
            } else {
                quoted.truncate(cut_at);
                quoted.push(CUT);
                quoted.push('"');
                return Self { text: quoted, cut: true };
            }
        }
        quoted.push('"');
        Self { text: quoted, cut: false }
    }
}

fn push_escaped(text: &mut String, character: char) {
    let obeyed = character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    if obeyed {
        // A `String` takes everything.
        let _ = write!(text, "\\u{:04x}", u32::from(character));
        return;
    }
    if matches!(character, '"' | '\\') {
        text.push('\\');
    }
    text.push(character);
}

/// Understands a file's whole content, if that is one finished record.
pub(super) fn parsed(content: &[u8]) -> Option<Record> {
    if content.last() != Some(&b'\n') {
        return None;
    }
    let map = object(content)?;
    let text = |name| Some(map.get(name)?.as_str()?.to_owned());
    let number = |name| map.get(name)?.as_u64();
    let time = |name| time(map.get(name)?);
    // It may be missing, but not be something else.
    let optional = |name| map.get(name).filter(|value| !value.is_null());
    Some(Record {
        pid: number("pid")?.try_into().ok().filter(|pid| *pid != 0)?,
        start: number("start")?,
        boot: text("boot")?,
        host: text("host")?,
        user: text("user")?,
        pidns: number("pidns")?,
        since: time("since")?,
        command: map
            .get("command")?
            .as_array()?
            .iter()
            .map(|word| word.as_str().map(str::to_owned))
            .collect::<Option<_>>()?,
        note: match optional("note") {
            Some(value) => Some(value.as_str()?.to_owned()),
            None => None,
        },
        token: match optional("token") {
            Some(value) => Some(value.as_u64()?),
            None => None,
        },
        last_success: match optional("last_success") {
            Some(value) => Some(self::time(value)?),
            None => None,
        },
    })
}

/// What outlives the holder, as far as it can be understood.
pub(super) fn lasting(content: &[u8]) -> Lasting {
    if !is_ours(content) {
        return Lasting::default();
    }
    Lasting { token: token::read(content), last_success: last_success(content) }
}

/// Stands in the front, if anywhere: found in a line that was not finished, too.
fn last_success(content: &[u8]) -> Option<SystemTime> {
    let name = b",\"last_success\":\"";
    let at = content.windows(name.len()).position(|part| part == name)? + name.len();
    let length = content[at..].iter().position(|byte| *byte == b'"')?;
    let text = std::str::from_utf8(&content[at..at + length]).ok()?;
    Some(text.parse::<Timestamp>().ok()?.into())
}

fn object(content: &[u8]) -> Option<Map<String, Value>> {
    if !is_ours(content) {
        return None;
    }
    match serde_json::from_slice(content).ok()? {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

fn time(value: &Value) -> Option<SystemTime> {
    Some(value.as_str()?.parse::<Timestamp>().ok()?.into())
}

#[cfg(test)]
mod tests;
