//! Keys out of the bytes that a terminal sends: any bytes at all, in any pieces.
//!
//! The one thing that bytes cannot tell is the Esc key from the beginning of a sequence: what is left
//! after some quiet time was a key ([`Keys::settle`]).

/// A key, or a combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    /// With the control key, as a lower-case letter.
    Control(char),
    Enter,
    Tab,
    Backspace,
    Escape,
    Up,
    Down,
    Left,
    Right,
    Home,
    End,
    PageUp,
    PageDown,
    Function(u8),
}

const ESC: u8 = 0x1b;

/// A sequence longer than this is none.
const LONGEST: usize = 64;

/// Bytes that have come, as far as they are no whole key yet.
#[derive(Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
}

/// What stands at the beginning of the bytes.
enum Head {
    /// So many bytes, and the key they are, if it is one that is known.
    Taken(usize, Option<Key>),
    /// More is needed to tell.
    Incomplete,
}

impl Keys {
    /// Takes bytes; returns the keys that are complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.bytes.extend_from_slice(bytes);
        let mut keys = Vec::new();
        while !self.bytes.is_empty() {
            match head(&self.bytes) {
                Head::Taken(count, key) => {
                    self.bytes.drain(..count);
                    keys.extend(key);
                }
                Head::Incomplete if self.bytes.len() > LONGEST => self.bytes.clear(),
                Head::Incomplete => break,
            }
        }
        keys
    }

    /// Whether something has begun that may be a key already.
    pub(super) fn is_unsettled(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Nothing more has come for a while: a lone Esc byte was the key.
    pub(super) fn settle(&mut self) -> Option<Key> {
        let key = (self.bytes == [ESC]).then_some(Key::Escape);
        self.bytes.clear();
        key
    }
}

fn head(bytes: &[u8]) -> Head {
    match bytes[0] {
        ESC => sequence(bytes),
        b'\r' | b'\n' => Head::Taken(1, Some(Key::Enter)),
        b'\t' => Head::Taken(1, Some(Key::Tab)),
        0x08 | 0x7f => Head::Taken(1, Some(Key::Backspace)),
        byte @ 1..=26 => Head::Taken(1, Some(Key::Control(char::from(byte - 1 + b'a')))),
        ..0x20 => Head::Taken(1, None),
        byte => character(bytes, byte),
    }
}

fn character(bytes: &[u8], first: u8) -> Head {
    let length = match first {
        ..0x80 => 1,
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Head::Taken(1, None),
    };
    let available = &bytes[..length.min(bytes.len())];
    match std::str::from_utf8(available) {
        Ok(text) => {
            let typed = text.chars().next().filter(|character| !character.is_control());
            Head::Taken(length, typed.map(Key::Char))
        }
        // `None` says that only the end is missing.
        Err(error) if error.error_len().is_none() => Head::Incomplete,
        Err(_) => Head::Taken(1, None),
    }
}

fn sequence(bytes: &[u8]) -> Head {
    match bytes.get(1) {
        None => Head::Incomplete,
        Some(&ESC) => Head::Taken(1, Some(Key::Escape)),
        Some(b'[') => control_sequence(bytes),
        Some(b'O') => match bytes.get(2) {
            None => Head::Incomplete,
            Some(&letter) => Head::Taken(3, by_letter(letter)),
        },
        // A combination with Alt, which means nothing here.
        Some(_) => Head::Taken(2, None),
    }
}

/// `ESC [ parameters letter`, as in ECMA-48.
fn control_sequence(bytes: &[u8]) -> Head {
    let inside = &bytes[2..];
    let Some(length) = inside.iter().position(|byte| !(0x20..0x40).contains(byte)) else {
        return Head::Incomplete;
    };
    let (parameters, last) = (&inside[..length], inside[length]);
    match last {
        // The Linux console's F1 to F5 have one letter more.
        b'[' if length == 0 => match inside.get(1) {
            None => Head::Incomplete,
            Some(&letter @ b'A'..=b'E') => Head::Taken(4, Some(Key::Function(letter - b'A' + 1))),
            Some(_) => Head::Taken(4, None),
        },
        b'~' => {
            let number = parameters.split(|&byte| byte == b';').next().unwrap_or_default();
            Head::Taken(length + 3, by_number(number))
        }
        0x40..0x7f => Head::Taken(length + 3, by_letter(last)),
        // It was broken off; what broke it off stands for itself.
        _ => Head::Taken(length + 2, None),
    }
}

fn by_letter(letter: u8) -> Option<Key> {
    Some(match letter {
        b'A' => Key::Up,
        b'B' => Key::Down,
        b'C' => Key::Right,
        b'D' => Key::Left,
        b'H' => Key::Home,
        b'F' => Key::End,
        b'M' => Key::Enter,
        b'P'..=b'S' => Key::Function(letter - b'P' + 1),
        _ => return None,
    })
}

fn by_number(number: &[u8]) -> Option<Key> {
    Some(match number {
        b"1" | b"7" => Key::Home,
        b"4" | b"8" => Key::End,
        b"5" => Key::PageUp,
        b"6" => Key::PageDown,
        b"11" => Key::Function(1),
        b"20" => Key::Function(9),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys::default();
        let mut found = keys.feed(bytes);
        found.extend(keys.settle());
        found
    }

    #[test]
    fn what_terminals_send() {
        for (bytes, key) in [
            (&b"q"[..], Key::Char('q')),
            ("é".as_bytes(), Key::Char('é')),
            ("漢".as_bytes(), Key::Char('漢')),
            (b"\x1b", Key::Escape),
            (b"\x1b[A", Key::Up),
            (b"\x1bOB", Key::Down),
            (b"\x1b[5~", Key::PageUp),
            (b"\x1b[6;5~", Key::PageDown),
            (b"\x1b[1~", Key::Home),
            (b"\x1bOF", Key::End),
            (b"\x1b[1;5C", Key::Right),
            (b"\x1b[[A", Key::Function(1)),
            (b"\x1b[20~", Key::Function(9)),
            (b"\r", Key::Enter),
            (b"\x7f", Key::Backspace),
            (b"\x03", Key::Control('c')),
        ] {
            assert_eq!(all(bytes), [key], "{bytes:?}");
        }
        assert_eq!(all(b"\x1b\x1b[A"), [Key::Escape, Key::Up]);
        assert_eq!(all(b"\x1b[<0;1;1Mj"), [Key::Enter, Key::Char('j')]);
        for unknown in [&b"\x1b[99~"[..], b"\x1bx", b"\0", b"\xff", b"\x1b[1;", b"\x1b["] {
            assert_eq!(all(unknown), [], "{unknown:?}");
        }
    }

    #[test]
    fn pieces_make_the_same_keys_as_the_whole() {
        let text = "a\x1b[A\x1b[5~é\x1bOF\x1b\x1b[[A漢\x1b[3\x1b[B\x03".as_bytes();
        let whole = all(text);
        assert_eq!(whole.len(), 10, "{whole:?}");
        for cut in 0..text.len() {
            let mut keys = Keys::default();
            let mut found = keys.feed(&text[..cut]);
            found.extend(keys.feed(&text[cut..]));
            found.extend(keys.settle());
            assert_eq!(found, whole, "cut at {cut}");
        }
    }

    #[test]
    fn any_bytes_come_to_an_end() {
        let mut seed = 1_u32;
        let mut keys = Keys::default();
        for _ in 0..20_000 {
            let piece: Vec<u8> = (0..7)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Often something that means something.
                    *b"\x1b[O;~A5\xe6\xbc\xa2"
                        .get((seed >> 24) as usize % 14)
                        .unwrap_or(&(seed >> 16).to_le_bytes()[0])
                })
                .collect();
            keys.feed(&piece);
            assert!(keys.bytes.len() <= LONGEST + piece.len());
        }
        keys.settle();
        assert!(!keys.is_unsettled());
    }
}
