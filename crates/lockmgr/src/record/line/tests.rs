use std::time::{Duration, UNIX_EPOCH};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::record::preserved;

/// Texts of all lengths, rich in what needs an escape.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,40}",
        ".{0,2000}",
        "[\u{0}-\u{1f}\"\\\\\u{7f}-\u{9f}\u{2028}\u{202e}]{0,1500}",
        "[aé漢🦀]{0,3000}",
    ]
}

/// Any time that the line can tell.
fn when() -> impl Strategy<Value = SystemTime> {
    (0..200_000_000_000u64, 0..1_000_000_000u32)
        .prop_map(|(seconds, nanos)| UNIX_EPOCH + Duration::new(seconds, nanos))
}

prop_compose! {
    fn record(of: impl Strategy<Value = String> + Clone + 'static)(
        (pid, start, pidns) in (1..=u32::MAX, any::<u64>(), any::<u64>()),
        (boot, host, user) in (of.clone(), of.clone(), of.clone()),
        (command, note) in (vec(of.clone(), 0..60), option::of(of)),
        (since, last_success) in (when(), option::of(when())),
        token in option::of(1_000_000_000_000_000..10_000_000_000_000_000_u64),
    ) -> Record {
        Record {
            pid, start, boot, host, user, pidns, since, command, note, token, last_success,
        }
    }
}

/// Whether the text is the other one, or a beginning of it with the sign for a cut.
fn is_start_of(short: &str, whole: &str) -> bool {
    short == whole || short.strip_suffix(CUT).is_some_and(|start| whole.starts_with(start))
}

proptest! {
    #[test]
    fn whatever_a_holder_says_fits_and_can_be_read(record in record(text().boxed())) {
        let line = written(&record).unwrap();
        prop_assert!(line.len() <= LONGEST && line.ends_with(b"\n") && is_ours(&line));
        let shown = std::str::from_utf8(&line).unwrap().trim_end_matches('\n');
        prop_assert!(!shown.chars().any(char::is_control), "nothing for a terminal to obey");
        let read = parsed(&line).expect("our own line");
        // What it is recognised by, and what outlives it, is whole.
        prop_assert_eq!((read.pid, read.start, read.pidns), (record.pid, record.start, record.pidns));
        prop_assert_eq!((read.since, read.token), (record.since, record.token));
        prop_assert_eq!(read.last_success, record.last_success);
        let lasting = Lasting { token: record.token, last_success: record.last_success };
        prop_assert_eq!(preserved(&line), lasting);
        // The rest is whole, or a beginning.
        for (short, whole) in [(&read.host, &record.host), (&read.user, &record.user)] {
            prop_assert!(is_start_of(short, whole));
        }
        prop_assert_eq!(read.note.is_some(), record.note.is_some());
        if let (Some(short), Some(whole)) = (&read.note, &record.note) {
            prop_assert!(is_start_of(short, whole));
        }
        prop_assert!(read.command.len() <= record.command.len());
        for (short, whole) in read.command.iter().zip(&record.command) {
            prop_assert!(is_start_of(short, whole));
        }
        if line.len() < LONGEST / 2 && record.command.iter().map(String::len).sum::<usize>() < 100 {
            prop_assert_eq!(read.command, record.command);
        }
    }

    #[test]
    fn what_is_short_is_kept_as_it_is(record in record("[^\u{2026}]{0,10}".boxed())) {
        let mut record = record;
        record.command.truncate(20);
        prop_assert_eq!(parsed(&written(&record).unwrap()), Some(record));
    }

    #[test]
    fn no_bytes_upset_the_parser(bytes in vec(any::<u8>(), 0..5000)) {
        prop_assert_eq!(parsed(&bytes), None);
        let like_ours = [b"{\"lockmgr\":1,", &bytes[..], b"}\n"].concat();
        prop_assert_eq!(parsed(&like_ours), None);
        preserved(&like_ours);
    }

    #[test]
    fn a_damaged_record_is_none_or_one_that_fits(
        record in record(".{0,30}".boxed()),
        cut in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let line = written(&record).unwrap();
        let torn = &line[..cut.index(line.len())];
        prop_assert_eq!(parsed(torn), None);
        preserved(torn);
        let mut changed = line;
        let at = at.index(changed.len());
        changed[at] = byte;
        if let Some(read) = parsed(&changed) {
            prop_assert!(read.pid != 0);
        }
    }
}

#[test]
fn a_record_is_complete_or_none() {
    let whole = r#"{"lockmgr":1,"pid":7,"start":5,"boot":"b","host":"h","user":"u","pidns":4026531836,"since":"2026-11-22T08:00:00Z","command":["a","b"]}"#;
    let read = |text: &str| parsed(format!("{text}\n").as_bytes());
    let record = read(whole).expect("complete");
    assert_eq!((record.pid, record.command.len()), (7, 2));
    assert_eq!((record.note, record.token, record.last_success), (None, None, None));
    assert_eq!(parsed(whole.as_bytes()), None, "unfinished");
    for member in ["pid", "start", "boot", "host", "user", "pidns", "since", "command"] {
        let without = whole.replace(&format!("\"{member}\""), "\"else\"");
        assert_eq!(read(&without), None, "{member}");
    }
    for (part, other) in [
        ("\"pid\":7", "\"pid\":0"),
        ("\"pid\":7", "\"pid\":-7"),
        ("\"pid\":7", "\"pid\":7.0"),
        ("\"pid\":7", "\"pid\":4294967296"),
        ("\"start\":5", "\"start\":\"5\""),
        ("\"b\"]", "2]"),
        ("2026-11-22T08:00:00Z", "yesterday"),
        ("}", ",\"note\":1}"),
        ("}", ",\"token\":-1}"),
        ("}", ",\"last_success\":0}"),
        ("{\"lockmgr\":1", "{\"lockmgr\":2"),
        ("{\"lockmgr\":1", " {\"lockmgr\":1"),
    ] {
        assert_eq!(read(&whole.replacen(part, other, 1)), None, "{other}");
    }
    // A later format may say more.
    assert!(read(&whole.replace('}', ",\"more\":[{}],\"token\":null}")).is_some());
}

#[test]
fn what_lasts_is_found_without_a_holder() {
    let read = |text: &str| preserved(text.as_bytes());
    let lasting = Lasting {
        token: Some(1_763_800_000_000_000),
        last_success: Some(UNIX_EPOCH + Duration::from_secs(1)),
    };
    let text =
        "{\"lockmgr\":1,\"token\":1763800000000000,\"last_success\":\"1970-01-01T00:00:01Z\"";
    for rest in ["}\n", "}", ",\"pid\":7,\"sta", ""] {
        assert_eq!(read(&format!("{text}{rest}")), lasting, "{rest}");
    }
    assert_eq!(
        of_lasting(lasting),
        format!("{text},\"token_again\":1763800000000000}}\n").into_bytes()
    );
    assert_eq!(of_lasting(Lasting::default()), b"{\"lockmgr\":1}\n");
    assert_eq!(read("{\"lockmgr\":1,\"token\":\"9\",\"last_success\":9}"), Lasting::default());
    assert_eq!(read("{\"token\":1763800000000000}"), Lasting::default());
}

#[test]
fn hostile_json_is_no_record() {
    for hostile in [
        format!("{{\"lockmgr\":1,\"pid\":{}", "[".repeat(4000)),
        format!("{{\"lockmgr\":1,\"pid\":{}}}\n", "9".repeat(4000)),
        "{\"lockmgr\":1,\"pid\":\"\\ud800\"}\n".to_owned(),
        "{\"lockmgr\":1,\"pid\":1e999}\n".to_owned(),
    ] {
        assert_eq!(parsed(hostile.as_bytes()), None);
        assert_eq!(preserved(hostile.as_bytes()), Lasting::default());
    }
}
