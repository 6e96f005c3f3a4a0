//! Command lines and scenes that nobody thought of: generated, and played with the original and ours.
//!
//! 256 of them; `PROPTEST_CASES` in the environment makes it more.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::both::{has_original, same_with};
use crate::support::{finished, hold};

/// What another process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    Nothing,
    Shared,
    Exclusive,
}

fn option() -> impl Strategy<Value = Vec<String>> {
    let flags = prop::sample::select(vec![
        "-s",
        "-x",
        "-e",
        "-u",
        "-n",
        "-o",
        "-F",
        "--shared",
        "--excl",
        "--unlock",
        "--nb",
        "--nonblock",
        "--close",
        "--no-fork",
        "--verbose",
        "--verb",
        "-sn",
        "-xo",
        "-uF",
        "-ns",
        "--no",
        "-q",
        "--shared=1",
        "--fork",
    ]);
    let seconds = prop::sample::select(vec!["0", ".02", "1e-2", "0x.04", "-1", "nan", "x", "1e-9"]);
    let codes = prop::sample::select(vec!["0", "7", "255", "256", "-1", "x", " 9"]);
    prop_oneof![
        10 => flags.prop_map(|flag| vec![flag.to_owned()]),
        2 => (prop::sample::select(vec!["-w", "--wait", "--timeout", "--ti", "-nw"]), seconds.clone())
            .prop_map(|(option, value)| vec![option.to_owned(), value.to_owned()]),
        1 => seconds.prop_map(|value| vec![format!("-w{value}")]),
        2 => (prop::sample::select(vec!["-E", "--conflict-exit-code", "--conf"]), codes.clone())
            .prop_map(|(option, value)| vec![option.to_owned(), value.to_owned()]),
        1 => codes.prop_map(|value| vec![format!("--conf={value}")]),
    ]
}

fn form() -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::select(vec![
        vec!["f", "echo", "ran"],
        vec!["f", "-c", "echo ran; exit 4"],
        vec!["f", "sh", "-c", "kill -9 $$"],
        vec!["f", "sh", "-c", "cat /proc/self/fdinfo/3 | grep flags; ls -l f | cut -c1-10"],
        vec!["f", "no-such-command"],
        vec!["f", "/"],
        vec!["f", "-c"],
        vec!["d/f", "true"],
        vec![".", "echo", "ran"],
        vec!["--", "f", "echo", "ran"],
        vec!["9", "echo", "ran"],
        vec!["0"],
        vec!["77"],
        vec!["f"],
        vec![],
    ])
}

fn case() -> impl Strategy<Value = (Vec<String>, Others)> {
    let others = prop::sample::select(vec![Others::Nothing, Others::Shared, Others::Exclusive]);
    (prop::collection::vec(option(), 0..5), form(), others).prop_map(|(options, form, others)| {
        let mut words: Vec<String> = options.concat();
        // Nobody is to wait for ever.
        if others != Others::Nothing && !words.iter().any(|word| word == "-n") {
            words.insert(0, "-w.02".to_owned());
        }
        words.extend(form.iter().map(ToString::to_string));
        (words, others)
    })
}

#[test]
fn whatever_is_generated_ends_as_with_the_original() {
    if !has_original() {
        return;
    }
    let config = Config { failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&case(), |(words, others)| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        same_with(&format!("{words:?} {others:?}"), &words, |whose, scratch| {
            let held = (others != Others::Nothing).then(|| hold(&scratch.path("f")));
            if others == Others::Shared {
                held.as_ref().expect("it is held").share();
            }
            finished(&mut whose.command(scratch, &words))
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
