//! The command line cut into options, as `getopt_long(3)` cuts it.
//!
//! Scanning stops at the first word that is no option, or after `--`. A long option may be shortened to
//! whatever names it alone; short ones may stand together in one word, the last of them with its
//! argument (`-nw5`).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Options that there are: `name`, what it means, whether it takes an argument.
pub(super) struct Table<T: 'static> {
    pub(super) short: &'static [(u8, T, bool)],
    pub(super) long: &'static [(&'static str, T, bool)],
}

/// One step of the scan.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a, T> {
    /// An option; the argument is there if it takes one.
    Option(T, Option<&'a OsStr>),
    /// The word is no option that there is, or could be several, or has an argument that it does not take.
    Unknown(&'a OsStr),
    /// The word needs an argument, and there is none.
    NoArgument(&'a OsStr),
}

/// The scan, word by word.
pub(super) struct Scan<'a, T: 'static> {
    table: &'static Table<T>,
    rest: &'a [OsString],
    /// What is left of a word of short options, and the word.
    cluster: Option<(&'a [u8], &'a OsStr)>,
}

impl<'a, T: Copy + PartialEq> Scan<'a, T> {
    pub(super) fn new(table: &'static Table<T>, words: &'a [OsString]) -> Self {
        Scan { table, rest: words, cluster: None }
    }

    /// The words that have not been scanned.
    pub(super) fn rest(&self) -> &'a [OsString] {
        self.rest
    }

    fn take_word(&mut self) -> Option<&'a OsStr> {
        let (word, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(word)
    }

    fn long(&mut self, word: &'a OsStr, text: &'a [u8]) -> Found<'a, T> {
        let (name, value) = match text.iter().position(|&byte| byte == b'=') {
            Some(at) => (&text[..at], Some(OsStr::from_bytes(&text[at + 1..]))),
            None => (text, None),
        };
        let Some((meaning, takes_argument)) = self.named(name) else {
            return Found::Unknown(word);
        };
        match (takes_argument, value) {
            (false, Some(_)) => Found::Unknown(word),
            (false, None) => Found::Option(meaning, None),
            (true, Some(value)) => Found::Option(meaning, Some(value)),
            (true, None) => match self.take_word() {
                Some(value) => Found::Option(meaning, Some(value)),
                None => Found::NoArgument(word),
            },
        }
    }

    /// The option of this name; or of those whose names begin like this, if they all mean the same.
    fn named(&self, name: &[u8]) -> Option<(T, bool)> {
        let all = self.table.long;
        if let Some(&(_, meaning, takes)) = all.iter().find(|(full, ..)| full.as_bytes() == name) {
            return Some((meaning, takes));
        }
        let mut alike = all.iter().filter(|(full, ..)| full.as_bytes().starts_with(name));
        let &(_, meaning, takes) = alike.next()?;
        alike.all(|&(_, other, _)| other == meaning).then_some((meaning, takes))
    }

    fn short(&mut self, letters: &'a [u8], word: &'a OsStr) -> Found<'a, T> {
        let (letter, more) = (letters[0], &letters[1..]);
        self.cluster = (!more.is_empty()).then_some((more, word));
        let Some(&(_, meaning, takes_argument)) =
            self.table.short.iter().find(|(known, ..)| *known == letter)
        else {
            return Found::Unknown(word);
        };
        if !takes_argument {
            return Found::Option(meaning, None);
        }
        let value = match self.cluster.take() {
            Some((value, _)) => Some(OsStr::from_bytes(value)),
            None => self.take_word(),
        };
        value.map_or(Found::NoArgument(word), |value| Found::Option(meaning, Some(value)))
    }
}

impl<'a, T: Copy + PartialEq> Iterator for Scan<'a, T> {
    type Item = Found<'a, T>;

    fn next(&mut self) -> Option<Found<'a, T>> {
        if let Some((letters, word)) = self.cluster {
            return Some(self.short(letters, word));
        }
        let word = self.rest.first()?;
        match word.as_bytes() {
            b"--" => {
                self.take_word();
                None
            }
            [b'-', b'-', text @ ..] => {
                self.take_word();
                Some(self.long(word, text))
            }
            [b'-', letters @ ..] if !letters.is_empty() => {
                self.take_word();
                Some(self.short(letters, word))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TABLE: Table<u8> = Table {
        short: &[(b'a', 1, false), (b'b', 2, false), (b'w', 3, true)],
        long: &[
            ("alpha", 1, false),
            ("beta", 2, false),
            ("wait", 3, true),
            ("wake", 4, false),
            ("be", 5, false),
            ("same-one", 6, false),
            ("same-two", 6, false),
        ],
    };

    fn scanned(line: &str) -> (Vec<String>, String) {
        let words: Vec<OsString> = line.split_ascii_whitespace().map(OsString::from).collect();
        let mut scan = Scan::new(&TABLE, &words);
        let found = scan.by_ref().map(|found| match found {
            Found::Option(meaning, None) => meaning.to_string(),
            Found::Option(meaning, Some(value)) => format!("{meaning}={}", value.display()),
            Found::Unknown(word) => format!("?{}", word.display()),
            Found::NoArgument(word) => format!(":{}", word.display()),
        });
        let found = found.collect();
        let rest = scan.rest().join(OsStr::new(" "));
        (found, rest.into_string().unwrap())
    }

    #[test]
    fn words_are_cut_as_getopt_long_cuts_them() {
        for (line, found, rest) in [
            ("", &[][..], ""),
            ("f -a", &[], "f -a"),
            ("-a f", &["1"], "f"),
            ("-ab f", &["1", "2"], "f"),
            ("-abw5 f", &["1", "2", "3=5"], "f"),
            ("-w 5 f", &["3=5"], "f"),
            ("-w -a f", &["3=-a"], "f"),
            ("-aw", &["1", ":-aw"], ""),
            ("-axb f", &["1", "?-axb", "2"], "f"),
            ("- -a", &[], "- -a"),
            ("-- -a", &[], "-a"),
            ("-a -- -- b", &["1"], "-- b"),
            ("--alpha --al --a f", &["1", "1", "1"], "f"),
            ("--be --bet --b f", &["5", "2", "?--b"], "f"),
            ("--wai=7 --wait= --wait 8 f", &["3=7", "3=", "3=8"], "f"),
            ("--wa f", &["?--wa"], "f"),
            ("--wait", &[":--wait"], ""),
            ("--alpha=1 f", &["?--alpha=1"], "f"),
            ("--same f", &["6"], "f"),
            ("--gamma f", &["?--gamma"], "f"),
        ] {
            let found = found.iter().map(ToString::to_string).collect();
            assert_eq!(scanned(line), (found, rest.to_owned()), "{line}");
        }
    }
}
