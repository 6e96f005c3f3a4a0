//! The timelines of a demo as a picture: a lane for each worker, pale while it waits, solid while it is
//! inside, and red where more than one is.
//!
//! The text is ours alone. There are two sets of colours, and whoever shows the picture says by
//! `prefers-color-scheme` which of them; the ground is part of the picture, so that each can be read on
//! any page.

use std::fmt::{self, Write};
use std::time::Duration;

use super::story::{Deed, Story};
use crate::svg::{HUES, escaped, round_step};
use crate::{duration, show};

const WIDTH: f64 = 960.0;
/// For the names of the lanes.
const LEFT: f64 = 104.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 22.0;
/// Of the heading of a timeline.
const HEADING: f64 = 40.0;
/// Between two timelines.
const GAP: f64 = 26.0;
/// For the axis.
const FOOT: f64 = 46.0;
/// So that what is short can be seen.
const THINNEST: f64 = 2.0;

const STYLE: &str = "\
.ground{fill:#ffffff;stroke:#d0d7de}.text{fill:#1f2328}.dim{fill:#59636e}.grid{stroke:#d8dee4}\
.lane{fill:#f3f5f7}.bad{fill:#cf222e}.clash{fill:#cf222e;fill-opacity:.16}\
.edge{stroke:#cf222e}.good{fill:#1a7f37}.waits{fill-opacity:.28}\
@media(prefers-color-scheme:dark){\
.ground{fill:#0d1117;stroke:#3d444d}.text{fill:#f0f6fc}.dim{fill:#9198a1}.grid{stroke:#2a313c}\
.lane{fill:#161b22}.bad{fill:#ff7b72}.clash{fill:#ff7b72;fill-opacity:.22}\
.edge{stroke:#ff7b72}.good{fill:#3fb950}.waits{fill-opacity:.45}}";

pub(super) fn draw(stories: &[Story]) -> String {
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _never_fails = Picture::of(stories).write(&mut svg);
    svg
}

/// What one worker did in one stretch of time.
struct Bar {
    worker: u32,
    from: f64,
    to: f64,
    inside: bool,
}

struct Timeline<'a> {
    story: &'a Story,
    bars: Vec<Bar>,
    /// When more than one was inside.
    clashes: Vec<(f64, f64)>,
}

struct Picture<'a> {
    timelines: Vec<Timeline<'a>>,
    /// Seconds.
    span: f64,
    lane: f64,
}

impl<'a> Timeline<'a> {
    fn of(story: &'a Story) -> Self {
        let mut bars = Vec::new();
        // Since when each of them waits, or is inside.
        let mut since = vec![None; story.workers() as usize + 1];
        let mut count = 0_u32;
        let mut clashes: Vec<(f64, f64)> = Vec::new();
        let mut last = 0.0;
        for ((at, event), _) in story.told() {
            let at = at.as_secs_f64();
            if count > 1 {
                clashes.push((last, at));
            }
            last = at;
            let Some(begin) = since.get_mut(event.worker as usize) else { continue };
            match event.deed {
                Deed::Asks => *begin = Some(at),
                Deed::Enters { .. } => {
                    if let Some(from) = begin.replace(at) {
                        bars.push(Bar { worker: event.worker, from, to: at, inside: false });
                    }
                    count += 1;
                }
                Deed::Leaves => {
                    if let Some(from) = begin.take() {
                        bars.push(Bar { worker: event.worker, from, to: at, inside: true });
                    }
                    count = count.saturating_sub(1);
                }
            }
        }
        Self { story, bars, clashes: joined(clashes) }
    }

    fn end(&self) -> f64 {
        self.bars.iter().map(|bar| bar.to).fold(0.0, f64::max)
    }
}

/// What follows on each other without a gap is one.
fn joined(stretches: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let mut joined: Vec<(f64, f64)> = Vec::new();
    for (from, to) in stretches {
        match joined.last_mut() {
            Some((_, end)) if *end >= from => *end = to,
            _ => joined.push((from, to)),
        }
    }
    joined
}

impl<'a> Picture<'a> {
    fn of(stories: &'a [Story]) -> Self {
        let timelines: Vec<_> = stories.iter().map(Timeline::of).collect();
        let span = timelines.iter().map(Timeline::end).fold(1e-3, f64::max);
        let most = stories.iter().map(Story::workers).max().unwrap_or(1);
        let lane = if most <= 8 { 30.0 } else { 16.0 };
        Self { timelines, span, lane }
    }

    fn height_of(&self, timeline: &Timeline<'_>) -> f64 {
        HEADING + f64::from(timeline.story.workers()) * self.lane
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (seconds / self.span).min(1.0)
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let heights = self.timelines.iter().map(|timeline| self.height_of(timeline)).sum::<f64>();
        let gaps =
            GAP * f64::from(u32::try_from(self.timelines.len()).unwrap_or(1).saturating_sub(1));
        let bottom = TOP + heights + gaps;
        let height = bottom + FOOT;
        let told: Vec<String> = self.timelines.iter().map(|one| heading(one.story).0).collect();
        writeln!(
            out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"-apple-system,'Segoe UI',Helvetica,Arial,\
             sans-serif\" font-size=\"13\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"ground\" x=\".5\" y=\".5\" width=\"{}\" height=\"{}\" rx=\"8\"/>",
            escaped(&told.join("; ")),
            WIDTH - 1.0,
            height - 1.0,
        )?;
        let mut y = TOP;
        for timeline in &self.timelines {
            self.write_timeline(out, timeline, y)?;
            y += self.height_of(timeline) + GAP;
        }
        self.write_foot(out, bottom)?;
        out.write_str("</svg>\n")
    }

    fn write_timeline(&self, out: &mut String, timeline: &Timeline<'_>, top: f64) -> fmt::Result {
        let story = timeline.story;
        let (what, verdict) = heading(story);
        let class = if story.overlaps() > 0 { "bad" } else { "good" };
        writeln!(
            out,
            "<text x=\"20\" y=\"{:.1}\" font-size=\"16\" font-weight=\"600\" class=\"text\">{}\
             <tspan dx=\"12\" class=\"{class}\" font-weight=\"400\">{}</tspan></text>",
            top + 16.0,
            escaped(&what),
            escaped(&verdict),
        )?;
        let first = top + HEADING;
        let bar = self.lane * 0.66;
        for worker in 1..=story.workers() {
            let y = first + f64::from(worker - 1) * self.lane;
            writeln!(
                out,
                "<rect class=\"lane\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{bar:.1}\" \
                 rx=\"3\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" class=\"dim\">worker \
                 {worker}</text>",
                WIDTH - LEFT - RIGHT,
                LEFT - 12.0,
                y + bar / 2.0 + 4.5,
            )?;
        }
        let lanes = f64::from(story.workers()) * self.lane - (self.lane - bar);
        for (from, to) in &timeline.clashes {
            let (x, width) = (self.x(*from), (self.x(*to) - self.x(*from)).max(1.0));
            writeln!(
                out,
                "<rect class=\"clash\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" \
                 height=\"{:.1}\"/>",
                first - 6.0,
                lanes + 12.0,
            )?;
        }
        for one in &timeline.bars {
            let hue = HUES[(one.worker as usize - 1) % HUES.len()];
            let y = first + f64::from(one.worker - 1) * self.lane;
            let (x, class) = (self.x(one.from), if one.inside { "inside" } else { "waits" });
            let width = (self.x(one.to) - x).max(if one.inside { THINNEST } else { 0.0 });
            let length = duration::show(Duration::from_secs_f64((one.to - one.from).max(0.0)));
            writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{bar:.1}\" rx=\"3\" \
                 fill=\"{hue}\" class=\"{class}\"><title>worker {}, {class}: {}</title></rect>",
                one.worker,
                escaped(&length),
            )?;
        }
        for (from, to) in &timeline.clashes {
            writeln!(
                out,
                "<line class=\"edge\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" \
                 stroke-width=\"3\"/>",
                self.x(*from),
                self.x(*to).max(self.x(*from) + THINNEST),
                y = first - 6.0,
            )?;
        }
        Ok(())
    }

    fn write_foot(&self, out: &mut String, bottom: f64) -> fmt::Result {
        let y = bottom + 2.0;
        writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
            WIDTH - RIGHT
        )?;
        let step = round_step(self.span / 6.0);
        let mut at = 0.0;
        while at <= self.span && step > 0.0 {
            let x = self.x(at);
            writeln!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y:.1}\" y2=\"{:.1}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"12\" class=\"dim\">{}\
                 </text>",
                y + 5.0,
                y + 20.0,
                if at > 0.0 {
                    escaped(&duration::show(Duration::from_secs_f64(at)))
                } else {
                    "0".into()
                },
            )?;
            at += step;
        }
        self.write_legend(out)
    }

    /// Beside the first heading.
    fn write_legend(&self, out: &mut String) -> fmt::Result {
        let y = TOP + 6.0;
        let mut x = WIDTH - RIGHT;
        let waits = self.timelines.iter().any(|one| one.bars.iter().any(|bar| !bar.inside));
        let clashes = self.timelines.iter().any(|one| !one.clashes.is_empty());
        let parts = [
            (clashes, "two or more", "class=\"clash\"", 78.0),
            (true, "inside", "fill=\"#0072b2\"", 42.0),
            (waits, "waits", "fill=\"#0072b2\" class=\"waits\"", 38.0),
        ];
        for (shown, text, look, width) in parts {
            if !shown {
                continue;
            }
            x -= width;
            writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{:.1}\" font-size=\"12\" class=\"dim\">{text}</text>\
                 <rect x=\"{:.1}\" y=\"{:.1}\" width=\"14\" height=\"10\" rx=\"2\" {look}/>",
                y + 9.5,
                x - 20.0,
                y,
            )?;
            x -= 40.0;
        }
        Ok(())
    }
}

/// What was played, and what came of it.
fn heading(story: &Story) -> (String, String) {
    let what = if story.locked() { "With the lock" } else { "Without a lock" };
    let visits = show::count(story.visits(), "visit");
    let overlaps = show::count(story.overlaps(), "overlap");
    (what.to_owned(), format!("{visits}, {overlaps}"))
}

#[cfg(test)]
mod tests {
    use super::super::story::Event;
    use super::*;

    fn story(workers: u32, deeds: &[(u64, u32, Deed)]) -> Story {
        let mut story = Story::new(true, workers);
        for (at, worker, deed) in deeds {
            story.add(Event { at: at * 1_000_000, worker: *worker, deed: *deed });
        }
        story
    }

    const IN: Deed = Deed::Enters { others: None };

    #[test]
    fn bars_are_what_was_and_clashes_are_where_two_were_inside() {
        let told = story(
            2,
            &[
                (0, 1, Deed::Asks),
                (10, 1, IN),
                (20, 2, IN),
                (30, 1, Deed::Leaves),
                (40, 2, Deed::Leaves),
            ],
        );
        let timeline = Timeline::of(&told);
        assert_eq!(timeline.bars.len(), 3);
        assert_eq!(timeline.clashes, [(0.02, 0.03)]);
        let svg = draw(std::slice::from_ref(&told));
        assert_eq!(svg.matches("<rect class=\"clash\"").count(), 1);
        assert!(svg.contains("2 visits, 1 overlap<"), "{svg}");
    }

    #[test]
    fn any_story_can_be_drawn() {
        for (workers, deeds) in [(1, &[][..]), (99, &[(5, 99, IN)]), (2, &[(0, 7, IN)])] {
            let told = [story(workers, deeds), story(workers, deeds)];
            for count in 0..=2 {
                let svg = draw(&told[..count]);
                assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
            }
        }
    }
}
