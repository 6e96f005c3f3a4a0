//! Every state in which a replacement can leave the file, byte by byte.

use std::collections::BTreeSet;

use super::*;

const TOKEN: u64 = 1_763_899_999_999_999;

/// A record of somebody, with a command this long.
fn line_of(token: Option<u64>, length: usize, success: bool) -> Vec<u8> {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_millis(seconds);
    let record = Record {
        pid: 4242,
        start: 77,
        boot: "c1f6".to_owned(),
        host: "host".to_owned(),
        user: "ann".to_owned(),
        pidns: 4_026_531_836,
        since: at(1_763_800_000_123),
        // Looks as much like a token as the user's words can.
        command: vec![",\"token_again\":1000000000000000}".repeat(length)],
        note: None,
        token,
        last_success: success.then(|| at(1_763_800_000_000)),
    };
    line::written(&record).unwrap()
}

/// All contents that the file can have when this replacement is stopped anywhere.
fn states(old: &[u8], new: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut content = old.to_vec();
    let mut states = BTreeSet::from([content.clone()]);
    for step in steps(old.len(), new.to_vec()) {
        match step {
            Step::Cut(length) => content.truncate(length),
            Step::Write(bytes, offset) => {
                for (index, byte) in bytes.iter().enumerate() {
                    match content.get_mut(offset + index) {
                        Some(place) => *place = *byte,
                        None => content.push(*byte),
                    }
                    states.insert(content.clone());
                }
            }
        }
        states.insert(content.clone());
    }
    assert!(content == new, "the new line alone is left");
    states
}

fn token_in(content: &[u8]) -> Option<u64> {
    preserved(content).token
}

#[test]
fn wherever_a_write_stops_the_last_token_can_be_read() {
    for (old_length, new_length, success) in
        [(1, 1, false), (0, 3, false), (3, 0, false), (2, 2, true), (0, 60, true), (60, 0, true)]
    {
        // Digits of all places change; also the next one, and one hours later.
        for step in [0, 1, 9, 3_600_000_001, 98_765_432_109, 7_236_199_999_999_999] {
            let old = line_of(Some(TOKEN), old_length, false);
            let new = line_of(Some(TOKEN + step), new_length, success);
            for state in states(&old, &new) {
                assert!(is_ours(&state), "{}", state.escape_ascii());
                let token = token_in(&state).expect("there is one");
                assert!(
                    (TOKEN..=TOKEN + step).contains(&token),
                    "{token} {}",
                    state.escape_ascii()
                );
            }
        }
    }
}

#[test]
fn a_second_accident_does_not_take_it_back_either() {
    let old = line_of(Some(TOKEN), 1, false);
    let next = line_of(Some(TOKEN + 12_345), 0, true);
    let after = line_of(Some(TOKEN + 3_600_000_001), 2, false);
    for torn in states(&old, &next) {
        let last = token_in(&torn).unwrap();
        for state in states(&torn, &after) {
            assert!(token_in(&state).unwrap() >= last, "{}", state.escape_ascii());
        }
    }
}

#[test]
fn any_mixture_of_sectors_has_it() {
    const SECTOR: usize = 512;
    let old = line_of(Some(TOKEN), 40, false);
    let new = line_of(Some(TOKEN + 99_999_999), 43, true);
    let sectors = new.len().div_ceil(SECTOR);
    let mut recognised = 0;
    for choice in 0..1_u32 << sectors {
        let mut content = old.clone();
        content.resize(new.len(), 0);
        for sector in (0..sectors).filter(|sector| choice & (1 << sector) != 0) {
            let range = sector * SECTOR..new.len().min((sector + 1) * SECTOR);
            content[range.clone()].copy_from_slice(&new[range]);
        }
        // A newline of the old line in the middle makes it somebody else's: refused, not restarted.
        if is_ours(&content) {
            let token = token_in(&content).expect("there is one");
            assert!((TOKEN..=TOKEN + 99_999_999).contains(&token), "{token} {choice:b}");
            recognised += 1;
        }
    }
    assert!(recognised >= 1 << (sectors - 1), "{recognised}");
}

#[test]
fn the_first_token_of_a_file_comes_whole_or_not_at_all() {
    for old in [Vec::new(), line_of(None, 3, true)] {
        let new = line_of(Some(TOKEN), 1, false);
        for state in states(&old, &new) {
            assert!(matches!(token_in(&state), None | Some(TOKEN)), "{}", state.escape_ascii());
        }
    }
}
