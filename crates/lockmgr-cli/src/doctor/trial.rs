//! Trying locks out: some of the lab's questions, asked of each mechanism at the same time.
//!
//! Of one mechanism they are asked one after the other, what matters most first, and it ends with the first
//! answer that settles the matter: what hangs is not asked again, and what is slow not for ever.

use std::path::Path;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use lockmgr::Mechanism;
use serde::Serialize;

use super::finding::Finding;
use crate::lab::probe::{Answer, Cause, Probe, Verdict as Answered};
use crate::lab::{ask, probes};
use crate::outcome::milliseconds;

const MECHANISMS: [Mechanism; 3] = [Mechanism::Flock, Mechanism::Ofd, Mechanism::Posix];

/// The questions, and what another answer than the expected one means.
const QUESTIONS: [(&str, Weight); 8] = [
    (
        "processes",
        Weight::Essential("false-success", "two processes have an exclusive lock at once"),
    ),
    (
        "shared-excludes",
        Weight::Essential("false-success", "one has it exclusively while another shares it"),
    ),
    ("wait-free", Weight::Essential("waits-fail", "a call that may wait does not get a free lock")),
    (
        "wait",
        Weight::Essential("waits-fail", "who waits for it does not get it when it is released"),
    ),
    ("kill", Weight::Essential("not-released", "it stays held when its holder is killed")),
    ("shared", Weight::Limit("not-shared", "two processes cannot share it")),
    ("table", Weight::Silent),
    ("signal", Weight::Limit("not-interruptible", "a signal does not end a wait")),
];

#[derive(Clone, Copy)]
enum Weight {
    /// Without it the mechanism is of no use.
    Essential(&'static str, &'static str),
    Limit(&'static str, &'static str),
    /// The answer is used elsewhere.
    Silent,
}

/// What was asked of a mechanism, and what it comes to.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) mechanism: Mechanism,
    pub(super) works: Works,
    pub(super) answers: Vec<(&'static str, Answer)>,
    /// What stands in the way, and what does not do so altogether; the first one is the reason if it does
    /// not work.
    pub(super) findings: Vec<Finding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Works {
    Yes,
    No,
    /// It could not be tried.
    Untried,
}

/// Everything that was tried.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) tried: Vec<Tried>,
    /// Whether flock and record locks see each other.
    pub(super) one_space: Option<bool>,
}

pub(super) fn all(directory: &Path, deadline: Duration) -> Trial {
    let list = probes::all();
    let list = &list;
    let end = Instant::now() + deadline * 2;
    let ask_one = |name: &str, mechanism| {
        let probe = list.iter().find(|probe| probe.name == name)?;
        Some((probe, ask(probe, Some(mechanism), directory, deadline, None)))
    };
    let ask_one = &ask_one;
    let (tried, space) = thread::scope(|scope| {
        let running = MECHANISMS.map(|mechanism| {
            let ask_it = move |name: &str| ask_one(name, mechanism);
            alongside(scope, move || try_one(mechanism, end, ask_it))
        });
        let space = alongside(scope, || ask_one("against-posix", Mechanism::Flock));
        let tried: Vec<_> = running.into_iter().filter_map(JoinOrRun::end).collect();
        (tried, space.end().flatten())
    });
    let worked = |wanted: Mechanism| {
        tried.iter().any(|one| one.mechanism == wanted && one.works == Works::Yes)
    };
    let one_space = match space {
        Some((_, answer)) if worked(Mechanism::Flock) && worked(Mechanism::Posix) => {
            match answer.verdict {
                Answered::Yes => Some(true),
                Answered::No => Some(false),
                Answered::Error | Answered::NotApplicable => None,
            }
        }
        _ => None,
    };
    Trial { tried, one_space }
}

/// Four of the usual size can be all the memory that a limit leaves.
pub(super) const STACK: usize = 1 << 19;

/// What a thread does; or, where there is none to be had, what is yet to be done.
enum JoinOrRun<'s, T, F> {
    Thread(ScopedJoinHandle<'s, T>),
    NoThread(F),
}

fn alongside<'s, T: Send + 's, F: FnOnce() -> T + Copy + Send + 's>(
    scope: &'s Scope<'s, '_>,
    work: F,
) -> JoinOrRun<'s, T, F> {
    let started = thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
    started.map_or(JoinOrRun::NoThread(work), JoinOrRun::Thread)
}

impl<T, F: FnOnce() -> T> JoinOrRun<'_, T, F> {
    fn end(self) -> Option<T> {
        match self {
            JoinOrRun::Thread(thread) => thread.join().ok(),
            JoinOrRun::NoThread(work) => Some(work()),
        }
    }
}

fn try_one<'a>(
    mechanism: Mechanism,
    end: Instant,
    ask: impl Fn(&str) -> Option<(&'a Probe, Answer)>,
) -> Tried {
    let mut tried =
        Tried { mechanism, works: Works::Yes, answers: Vec::new(), findings: Vec::new() };
    for (name, weight) in QUESTIONS {
        if Instant::now() > end {
            let text = "answers take so long that not everything was asked (--deadline)";
            tried.add(Finding::limit("slow", text));
            break;
        }
        let Some((probe, answer)) = ask(name) else { continue };
        let expected = probe.expectation(Some(mechanism)).is_met_by(answer.verdict);
        let is_last = !expected && tried.weigh(weight, &answer);
        tried.answers.push((name, answer));
        if is_last {
            break;
        }
    }
    tried
}

impl Tried {
    /// Draws the conclusion from an answer that is not as expected; true when nothing more need be asked.
    fn weigh(&mut self, weight: Weight, answer: &Answer) -> bool {
        if let Some(Cause::Lab) = answer.cause {
            self.works = Works::Untried;
            let text = format!("could not be tried out: {}", answer.summary);
            self.add(Finding::limit("not-tried", text));
            return true;
        }
        match (weight, &answer.cause) {
            (Weight::Silent, _) => false,
            (Weight::Limit(code, what), None) => {
                self.add(Finding::limit(code, what));
                false
            }
            (Weight::Essential(code, what), None) => {
                self.works = Works::No;
                self.add(Finding::fatal(code, what));
                true
            }
            (_, Some(Cause::Scratch { errno })) => {
                self.works = Works::Untried;
                let text =
                    format!("could not be tried out: no directory can be made there ({errno})");
                self.add(Finding::limit("not-tried", text));
                true
            }
            (_, Some(Cause::Call { errno })) => {
                self.works = Works::No;
                let text = format!("the lock call fails with {errno}{}", why(errno));
                self.add(Finding::fatal("no-locks", text));
                true
            }
            (Weight::Limit("not-interruptible", _), Some(Cause::Hangs | Cause::Stuck)) => {
                self.add(Finding::limit(
                    "not-interruptible",
                    "a process that waits cannot be interrupted, not even by SIGKILL, because the server \
                     does not heed it (lockmgr does not sleep in that call, it asks every 50 ms)",
                ));
                true
            }
            (_, Some(_)) => {
                self.works = Works::No;
                self.add(Finding::fatal(
                    "hangs",
                    "a call that may wait never comes back, and who has made it may not even be killed \
                     (lockmgr's own waits only ask, and get by)",
                ));
                true
            }
        }
    }

    fn add(&mut self, finding: Finding) {
        self.findings.push(Finding { mechanisms: vec![self.mechanism], ..finding });
    }

    /// In a few words.
    pub(super) fn told(&self) -> String {
        let reason = self.findings.first().map_or("", |finding| finding.text.as_str());
        match self.works {
            Works::Yes => "works: keeps others out, waits, and ends with its process".to_owned(),
            Works::Untried => reason.to_owned(),
            Works::No => {
                format!("does not work: {}", reason.split([',', ':']).next().unwrap_or(reason))
            }
        }
    }

    fn verdict_of(&self, name: &str) -> Option<Answered> {
        self.answers.iter().find(|(known, _)| *known == name).map(|(_, answer)| answer.verdict)
    }

    /// Whether this kernel keeps the lock, as far as its table tells.
    pub(super) fn is_kept_here(&self) -> Option<bool> {
        match self.verdict_of("table") {
            Some(Answered::Yes) => Some(true),
            Some(Answered::No) => Some(false),
            _ => None,
        }
    }
}

/// What an error means, for those who do not know it by heart.
fn why(errno: &str) -> &'static str {
    match errno {
        "ENOLCK" => {
            ": no lock service answers (on NFSv3: are lockd and rpc.statd running on both sides?)"
        }
        "ENOSYS" | "EOPNOTSUPP" | "EINVAL" => ": this filesystem has no such locks",
        "EACCES" | "EPERM" => ": it is forbidden",
        "EIO" | "ETIMEDOUT" | "ENOTCONN" | "EHOSTDOWN" | "ESTALE" => {
            ": the server does not do its work"
        }
        _ => "",
    }
}

/// An answer as JSON has it.
#[derive(Serialize)]
pub(super) struct AnswerJson {
    probe: &'static str,
    verdict: Answered,
    summary: String,
    took_ms: f64,
}

impl Tried {
    pub(super) fn answers_json(&self) -> Vec<AnswerJson> {
        let told = |(name, answer): &(&'static str, Answer)| AnswerJson {
            probe: name,
            verdict: answer.verdict,
            summary: answer.summary.clone(),
            took_ms: milliseconds(answer.took),
        };
        self.answers.iter().map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn answer(verdict: Answered, cause: Option<Cause>) -> Answer {
        Answer { verdict, cause, ..Answer::not_applicable("") }
    }

    /// What comes of it when one question is answered otherwise than expected.
    fn tried_with(odd: &str, verdict: Answered, cause: Option<&Cause>) -> (Tried, Vec<String>) {
        let list = probes::all();
        let asked = std::cell::RefCell::new(Vec::new());
        let end = Instant::now() + Duration::from_secs(3600);
        let tried = try_one(Mechanism::Flock, end, |name| {
            asked.borrow_mut().push(name.to_owned());
            let probe = list.iter().find(|probe| probe.name == name)?;
            let good = answer(Answered::Yes, None);
            let told = if name == odd { answer(verdict, cause.cloned()) } else { good };
            Some((probe, told))
        });
        (tried, asked.into_inner())
    }

    #[test]
    fn every_question_is_one_of_the_labs_and_yes_is_the_right_answer() {
        let list = probes::all();
        for (name, _) in QUESTIONS.iter().chain([&("against-posix", Weight::Silent)]) {
            assert!(list.iter().any(|probe| probe.name == *name), "{name}");
        }
        let (tried, asked) = tried_with("", Answered::Yes, None);
        assert_eq!(asked, QUESTIONS.map(|(name, _)| name));
        assert_eq!((tried.works, tried.findings.len()), (Works::Yes, 0));
    }

    #[test]
    fn an_answer_is_weighed_and_settles_the_matter_or_not() {
        let call = |errno: &str| Some(Cause::Call { errno: errno.to_owned() });
        let scratch = Some(Cause::Scratch { errno: "EROFS".to_owned() });
        for (question, verdict, cause, works, code, level, last) in [
            ("processes", Answered::No, None, Works::No, "false-success", Level::Fatal, true),
            (
                "processes",
                Answered::Error,
                call("ENOLCK"),
                Works::No,
                "no-locks",
                Level::Fatal,
                true,
            ),
            (
                "processes",
                Answered::Error,
                scratch,
                Works::Untried,
                "not-tried",
                Level::Limit,
                true,
            ),
            ("shared-excludes", Answered::No, None, Works::No, "false-success", Level::Fatal, true),
            (
                "wait-free",
                Answered::Error,
                Some(Cause::Hangs),
                Works::No,
                "hangs",
                Level::Fatal,
                true,
            ),
            ("wait", Answered::Error, Some(Cause::Stuck), Works::No, "hangs", Level::Fatal, true),
            ("wait", Answered::No, None, Works::No, "waits-fail", Level::Fatal, true),
            ("kill", Answered::No, None, Works::No, "not-released", Level::Fatal, true),
            (
                "kill",
                Answered::Error,
                Some(Cause::Lab),
                Works::Untried,
                "not-tried",
                Level::Limit,
                true,
            ),
            ("shared", Answered::No, None, Works::Yes, "not-shared", Level::Limit, false),
            ("signal", Answered::No, None, Works::Yes, "not-interruptible", Level::Limit, true),
            (
                "signal",
                Answered::Error,
                Some(Cause::Stuck),
                Works::Yes,
                "not-interruptible",
                Level::Limit,
                true,
            ),
        ] {
            let (tried, asked) = tried_with(question, verdict, cause.as_ref());
            assert_eq!(tried.works, works, "{question}");
            let found: Vec<_> =
                tried.findings.iter().map(|finding| (finding.code, finding.level)).collect();
            assert_eq!(found, [(code, level)], "{question}");
            assert_eq!(asked.last().is_some_and(|asked| asked == question), last, "{question}");
        }
        let (tried, _) = tried_with("table", Answered::No, None);
        assert_eq!((tried.works, tried.is_kept_here()), (Works::Yes, Some(false)));
    }
}
