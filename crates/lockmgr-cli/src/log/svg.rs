//! The timeline of a log as a picture: one lane a run, waiting pale, holding solid, one hue a lock.
//!
//! The text of the log comes from outside, so all of it is escaped, and what XML cannot carry is replaced.
//! The picture has no script, no style sheet and no reference to anything outside of it.
//!
//! Lanes get thinner as there are more of them, so that 200 fit on a screen or two; more than that are not
//! drawn, the last ones are, and the picture says so. A bar is never thinner than can be seen, so
//! what is short looks longer than it is: each bar's tooltip has the figures.

use std::fmt::{self, Write};

use jiff::Timestamp;

use super::summary::Run;
use crate::duration;
use crate::show;
use crate::svg::{HUES, escaped, round_step};

/// More are not drawn.
const MOST_LANES: usize = 200;

/// More locks than these are not named, except in the tooltips.
const MOST_NAMES: usize = 20;

const WIDTH: f64 = 1200.0;
/// For the names of the lanes.
const LEFT: f64 = 110.0;
const RIGHT: f64 = 20.0;
const THINNEST: f64 = 1.5;

pub(super) fn draw(runs: &[Run]) -> String {
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _never_fails = Picture::of(runs).write(&mut svg);
    svg
}

struct Picture<'a> {
    runs: &'a [Run],
    left_out: usize,
    locks: Vec<Option<&'a str>>,
    begin: Timestamp,
    end: Timestamp,
    lane: f64,
    top: f64,
}

impl<'a> Picture<'a> {
    fn of(all: &'a [Run]) -> Self {
        let left_out = all.len().saturating_sub(MOST_LANES);
        let runs = &all[left_out..];
        let mut locks = Vec::new();
        for run in runs {
            if !locks.contains(&run.lock.as_deref()) {
                locks.push(run.lock.as_deref());
            }
        }
        let begin = runs.iter().map(Run::begin).min().unwrap_or(Timestamp::UNIX_EPOCH);
        let end = runs.iter().flat_map(Run::times).max().unwrap_or(begin);
        let lane = match runs.len() {
            0..=40 => 22.0,
            41..=80 => 14.0,
            81..=120 => 11.0,
            _ => 8.0,
        };
        let top = 62.0 + 16.0 * f64::from(u32::try_from(locks.len().min(MOST_NAMES)).unwrap_or(20));
        Self { runs, left_out, locks, begin, end, lane, top }
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let lanes = f64::from(u32::try_from(self.runs.len()).unwrap_or(u32::MAX));
        let bottom = self.top + lanes * self.lane;
        let height = bottom + 40.0;
        writeln!(
            out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"11\" \
             fill=\"#222222\">\n\
             <title>Timeline of locks</title>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
        )?;
        self.write_heading(out)?;
        self.write_axis(out, bottom)?;
        for (index, run) in self.runs.iter().enumerate() {
            let row = f64::from(u32::try_from(index).unwrap_or(u32::MAX));
            self.write_lane(out, run, self.top + row * self.lane)?;
        }
        out.write_str("</svg>\n")
    }

    fn write_heading(&self, out: &mut String) -> fmt::Result {
        let span = duration::show(self.end.duration_since(self.begin).unsigned_abs());
        let mut heading =
            format!("{} from {:.3}, {span}", show::count(self.runs.len(), "run"), self.begin);
        if self.left_out > 0 {
            write!(heading, " (the last ones; {} before them are not drawn)", self.left_out)?;
        }
        writeln!(out, "<text x=\"8\" y=\"18\" font-size=\"13\">{}</text>", escaped(&heading))?;
        writeln!(
            out,
            "<text x=\"8\" y=\"34\" fill=\"#666666\">pale: waiting; solid: holding; dashed: the log does \
             not say how it ended; a cross: not run</text>"
        )?;
        for (index, lock) in self.locks.iter().enumerate().take(MOST_NAMES) {
            let y = 50.0 + 16.0 * f64::from(u32::try_from(index).unwrap_or(0));
            let name = match lock {
                _ if index == MOST_NAMES - 1 && self.locks.len() > MOST_NAMES => {
                    format!("and {} more", self.locks.len() - MOST_NAMES + 1)
                }
                Some(lock) => show::text(lock),
                None => "(path not logged)".into(),
            };
            writeln!(
                out,
                "<rect x=\"8\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{}\"/>\
                 <text x=\"24\" y=\"{y:.1}\">{}</text>",
                y - 9.0,
                HUES[index % HUES.len()],
                escaped(&name)
            )?;
        }
        Ok(())
    }

    /// Lines from top to bottom at round distances from the beginning.
    fn write_axis(&self, out: &mut String, bottom: f64) -> fmt::Result {
        let span = self.seconds(self.end);
        let step = round_step(span / 8.0);
        let mut at = 0.0;
        while at <= span && step > 0.0 {
            let x = self.x_of(at);
            writeln!(
                out,
                "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666666\">+{}</text>",
                self.top,
                bottom + 16.0,
                escaped(&duration::show(std::time::Duration::from_secs_f64(at)))
            )?;
            at += step;
        }
        Ok(())
    }

    fn write_lane(&self, out: &mut String, run: &Run, y: f64) -> fmt::Result {
        let hue = self.locks.iter().position(|lock| *lock == run.lock.as_deref()).unwrap_or(0);
        let hue = HUES[hue % HUES.len()];
        let bar = self.lane * 0.72;
        writeln!(out, "<g><title>{}</title>", escaped(&run.told()))?;
        // Letters need their room; the tooltip has the number in any case.
        let size = self.lane.min(11.0);
        writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" font-size=\"{size}\">{}</text>",
            LEFT - 8.0,
            y + bar * 0.9,
            run.pid
        )?;
        let mut rect = |from: f64, to: f64, opacity: &str, extra: &str| {
            let width = (to - from).max(THINNEST);
            writeln!(
                out,
                "<rect x=\"{from:.2}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{bar:.1}\" \
                 fill=\"{hue}\" fill-opacity=\"{opacity}\"{extra}/>"
            )
        };
        let open = format!(" stroke=\"{hue}\" stroke-dasharray=\"3 2\"");
        let held_from = run.acquired;
        let waited_to = held_from.or(run.end);
        if run.waited() {
            let extra = if waited_to.is_none() { open.as_str() } else { "" };
            rect(self.x(run.begin()), self.x(waited_to.unwrap_or(self.end)), "0.25", extra)?;
        }
        if let Some(acquired) = held_from {
            let (opacity, extra) =
                if run.end.is_some() { ("1", "") } else { ("0.6", open.as_str()) };
            rect(self.x(acquired), self.x(run.end.unwrap_or(self.end)), opacity, extra)?;
        } else if let Some(end) = run.end {
            let (x, r) = (self.x(end), bar / 2.0);
            let (left, right, bottom) = (x - r, x + r, y + bar);
            writeln!(
                out,
                "<path d=\"M{left:.2} {y:.1}L{right:.2} {bottom:.1}M{left:.2} {bottom:.1}L{right:.2} {y:.1}\" \
                 stroke=\"{hue}\" stroke-width=\"1.5\" fill=\"none\"/>"
            )?;
        }
        out.write_str("</g>\n")
    }

    fn seconds(&self, time: Timestamp) -> f64 {
        time.duration_since(self.begin).as_secs_f64().max(0.0)
    }

    fn x(&self, time: Timestamp) -> f64 {
        self.x_of(self.seconds(time))
    }

    fn x_of(&self, seconds: f64) -> f64 {
        let span = self.seconds(self.end).max(1e-3);
        LEFT + (WIDTH - LEFT - RIGHT) * (seconds / span).min(1.0)
    }
}

impl Run {
    /// When the process began to wait, as well as it is known.
    fn begin(&self) -> Timestamp {
        let first = self.waiting.or(self.acquired).unwrap_or(self.first);
        let known_wait = self.acquired.or(self.end).zip(self.waited_ms).and_then(|(until, ms)| {
            until.checked_sub(jiff::SignedDuration::try_from_secs_f64(ms / 1e3).ok()?).ok()
        });
        known_wait.map_or(first, |begin| begin.min(first))
    }

    fn waited(&self) -> bool {
        self.waiting.is_some()
    }

    fn times(&self) -> impl Iterator<Item = Timestamp> {
        [Some(self.begin()), self.waiting, self.acquired, self.end].into_iter().flatten()
    }

    fn told(&self) -> String {
        let show = |ms: f64| duration::show(std::time::Duration::from_secs_f64(ms / 1e3));
        let lock = self.lock.as_deref().map_or_else(|| "(path not logged)".into(), show::text);
        let mut told = vec![format!("pid {}, {}, {lock}", self.pid, show::text(&self.mode))];
        told.extend(self.waited_ms.map(|waited| format!("waited {}", show(waited))));
        told.extend(self.held_ms.map(|held| format!("held {}", show(held))));
        told.push(match (&self.outcome, self.status) {
            (Some(outcome), Some(status)) => format!("{}, status {status}", show::text(outcome)),
            _ => "the log does not say how it ended".into(),
        });
        told.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: i64, lock: &str) -> Run {
        let at = |ms| Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap();
        Run {
            pid: 1000,
            lock: Some(lock.into()),
            mode: "exclusive".into(),
            first: at(number),
            waiting: Some(at(number)),
            acquired: Some(at(number + 10)),
            end: (number % 7 != 3).then(|| at(number + 30)),
            waited_ms: Some(10.0),
            held_ms: Some(20.0),
            outcome: Some("ran".into()),
            status: Some(0),
        }
    }

    #[test]
    fn nothing_of_the_log_becomes_markup() {
        let hostile = "/a\"'><script>alert(1)</script>&\u{1b}\u{fffe}]]>";
        let mut one = run(0, hostile);
        one.mode = hostile.into();
        one.outcome = Some(hostile.into());
        let svg = draw(&[one]);
        assert!(!svg.contains("<script") && !svg.contains("]]>"), "{svg}");
        assert!(!svg.contains('\u{1b}') && !svg.contains('\u{fffe}'));
        assert!(svg.contains("&lt;script&gt;"));
    }

    #[test]
    fn any_number_of_runs_can_be_drawn() {
        for count in [0, 1, 2, 40, 200, 5000] {
            let runs: Vec<Run> = (0..count).map(|n| run(n * 5, "/l")).collect();
            let svg = draw(&runs);
            let lanes = svg.matches("<g>").count();
            assert_eq!(lanes, runs.len().min(MOST_LANES));
            assert_eq!(svg.contains("are not drawn"), runs.len() > MOST_LANES);
            assert!(svg.len() < 300_000 && !svg.contains("NaN") && !svg.contains("inf"));
        }
    }
}
