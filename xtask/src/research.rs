//! `cargo xtask research`: runs `lockmgr lab` on real filesystems, and writes what came of it into
//! docs/research.md.
//!
//! The page is written by people; what stands between `<!-- research:WHAT -->` and `<!-- research:end -->` is
//! replaced, so that no answer in it was typed in.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::step::{self, cargo, command};

const BEGIN: &str = "<!-- research:";
const END: &str = "<!-- research:end -->";

/// Where the answers of a local filesystem are taken from; the first of those below.
const LOCAL: [&str; 6] = ["ext4", "tmpfs", "overlay", "xfs", "btrfs", "fuse-local"];

/// A FUSE server that keeps the locks itself, in one space, as a server in the network does.
const SERVED: &str = "fuse-served";

/// FUSE servers with something wrong.
const TROUBLE: [&str; 4] = ["fuse-nosys", "fuse-enolck", "fuse-hang", "fuse-sham"];

pub(crate) fn run() -> Result<()> {
    step::run(cargo("build --package lockmgr-cli --package lockmgr-testfs"))?;
    let mut findings = Findings { local: Vec::new(), served: Value::Null, trouble: Vec::new() };
    for kind in LOCAL {
        let found = lab(kind, "")?;
        // Something has not come back in time: the machine has too much else to do.
        ensure!(
            !found.to_string().contains("\"verdict\":\"error\""),
            "a question got no answer on {kind}; run this on a machine that is not busy"
        );
        findings.local.push((kind, found));
    }
    findings.served = lab(SERVED, "--deadline 5s")?;
    for kind in TROUBLE {
        findings.trouble.push((kind, lab(kind, "--deadline 1s processes wait wait-free")?));
    }
    let page = step::root().join("docs/research.md");
    let old =
        fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let new = filled(&old, |what| findings.text(what))?;
    fs::write(&page, new).with_context(|| format!("cannot write {}", page.display()))?;
    eprintln!("wrote the answers into {}", page.display());
    Ok(())
}

/// What `lockmgr lab --json` says on a filesystem of this kind.
fn lab(kind: &str, words: &str) -> Result<Value> {
    let programs = step::target_dir()?.join("debug");
    let mut lab = command(programs.join("lockmgr-testfs"), kind);
    lab.arg(programs.join("lockmgr")).args(["lab", "--json"]).args(words.split_whitespace());
    // The fixture adds the path.
    lab.arg("--dir");
    eprintln!("$ lockmgr-testfs {kind} lockmgr lab --json {words} --dir …");
    let output = lab.output().context("cannot start lockmgr-testfs")?;
    // 1 says that something is not as expected, which is what the page is to tell.
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        matches!(output.status.code(), Some(0 | 1)) && !output.stdout.is_empty(),
        "the lab cannot be run on {kind} ({}): {}",
        output.status,
        said.trim()
    );
    serde_json::from_slice(&output.stdout).with_context(|| format!("on {kind}"))
}

struct Findings {
    local: Vec<(&'static str, Value)>,
    served: Value,
    trouble: Vec<(&'static str, Value)>,
}

impl Findings {
    /// What is to stand at this place of the page.
    fn text(&self, what: &str) -> Result<String> {
        let mut words = what.split(' ');
        Ok(match words.next().unwrap_or_default() {
            "run" => self.when(),
            "matrix" => matrix(self.usual())?,
            "names" => names(self.usual())?,
            "filesystems" => self.filesystems()?,
            "served" => differences(&self.served)?,
            "trouble" => self.trouble()?,
            "sizes" => sizes()?,
            "answers" => {
                words.map(|name| answer(self.usual(), name)).collect::<Result<Vec<_>>>()?.join("\n")
            }
            "story" => {
                let (Some(name), Some(mechanism)) = (words.next(), words.next()) else {
                    bail!("write `story PROBE MECHANISM`");
                };
                story(self.usual(), name, mechanism)?
            }
            _ => bail!("nobody knows what `{what}` is"),
        })
    }

    fn usual(&self) -> &Value {
        &self.local[0].1
    }

    fn when(&self) -> String {
        let date = text(&self.usual()["time"]).split('T').next().unwrap_or_default();
        format!("Run on {date}, {}, by `cargo xtask research`.", text(&self.usual()["kernel"]))
    }

    fn filesystems(&self) -> Result<String> {
        let mut table = String::from(
            "| filesystem | as the kernel names it | answers | not as expected |\n|---|---|---:|---|\n",
        );
        let all = self.local.iter().map(|(kind, found)| (*kind, found));
        for (kind, found) in all.chain([(SERVED, &self.served)]) {
            let place = &found["filesystem"];
            let odd = match list(&found["probes"])?.iter().map(unexpected).sum::<usize>() {
                0 => "none".to_owned(),
                some => format!("{some}, see below"),
            };
            let (named, asked) = (text(&place["kind"]), &found["asked"]);
            writeln!(table, "| {kind} | `{named}` | {asked} | {odd} |")?;
        }
        Ok(table)
    }

    fn trouble(&self) -> Result<String> {
        let mut table = String::from(
            "| filesystem | question | flock | ofd | posix |\n|---|---|---|---|---|\n",
        );
        for (kind, found) in &self.trouble {
            for probe in list(&found["probes"])? {
                write!(table, "| {kind} | `{}`", text(&probe["name"]))?;
                for answer in list(&probe["answers"])? {
                    let word = match (text(&answer["verdict"]), text(&answer["cause"])) {
                        ("error", "call") => format!("error: {}", text(&answer["errno"])),
                        ("error", cause) => format!("error: {cause}"),
                        (verdict, _) => verdict.to_owned(),
                    };
                    let strong = if answer["as_expected"] == true { "" } else { "**" };
                    write!(table, " | {strong}{word}{strong}")?;
                }
                table.push_str(" |\n");
            }
        }
        Ok(table)
    }
}

fn matrix(found: &Value) -> Result<String> {
    let mut table =
        String::from("| probe | flock | ofd | posix | question |\n|---|---|---|---|---|\n");
    for probe in list(&found["probes"])? {
        let answers = list(&probe["answers"])?;
        if let [flock, ofd, posix] = &answers[..] {
            let [flock, ofd, posix] = [flock, ofd, posix].map(cell);
            let (name, question) = (text(&probe["name"]), text(&probe["question"]));
            writeln!(table, "| `{name}` | {flock} | {ofd} | {posix} | {question} |")?;
        }
    }
    Ok(table)
}

fn names(found: &Value) -> Result<String> {
    let mut table = String::from("| probe | answer | question |\n|---|---|---|\n");
    for probe in list(&found["probes"])? {
        if let [answer] = &list(&probe["answers"])?[..] {
            let (name, question) = (text(&probe["name"]), text(&probe["question"]));
            writeln!(table, "| `{name}` | {} | {question} |", cell(answer))?;
        }
    }
    Ok(table)
}

/// What differs from a local filesystem.
fn differences(found: &Value) -> Result<String> {
    let mut table = String::from(
        "| probe | mechanism | on a local filesystem | here | what was seen |\n|---|---|---|---|---|\n",
    );
    for probe in list(&found["probes"])? {
        for answer in
            list(&probe["answers"])?.iter().filter(|answer| answer["as_expected"] == false)
        {
            writeln!(
                table,
                "| `{}` | {} | {} | {} | {} |",
                text(&probe["name"]),
                answer["mechanism"].as_str().unwrap_or("–"),
                text(&answer["expected"]),
                cell(answer),
                in_table(text(&answer["summary"]))
            )?;
        }
    }
    Ok(table)
}

/// A probe and its answers, as a line of a list.
fn answer(found: &Value, name: &str) -> Result<String> {
    let probe = probe(found, name)?;
    let mut line = format!("- `{name}`: {} ", text(&probe["question"]));
    let answers = list(&probe["answers"])?;
    let told: Vec<String> = answers
        .iter()
        .map(|answer| match answer["mechanism"].as_str() {
            Some(mechanism) => format!("{mechanism} **{}**", cell(answer)),
            None => format!("**{}**", cell(answer)),
        })
        .collect();
    line += &told.join(", ");
    Ok(line)
}

/// What was done for one answer, call by call.
fn story(found: &Value, name: &str, mechanism: &str) -> Result<String> {
    let answers = list(&probe(found, name)?["answers"])?;
    let answer = answers.iter().find(|answer| answer["mechanism"] == mechanism);
    let answer = answer.with_context(|| format!("{name} is not asked of {mechanism}"))?;
    let mut block = format!("```text\n{name}, {mechanism}: {}", text(&answer["verdict"]));
    writeln!(block, " ({})", text(&answer["summary"]))?;
    for step in list(&answer["steps"])? {
        let (who, what) = (text(&step["who"]), text(&step["what"]));
        match step["outcome"].as_str() {
            None => writeln!(block, "  {who:4} {what}")?,
            Some(word) if word.starts_with(char::is_alphabetic) => {
                writeln!(block, "  {who:4} {what}  {word}")?;
            }
            Some(number) => writeln!(block, "  {who:4} {what} = {number}")?,
        }
    }
    block.push_str("```");
    Ok(block)
}

fn sizes() -> Result<String> {
    let program = step::target_dir()?.join("debug/lockmgr");
    let found: Value =
        serde_json::from_str(&step::output_of(command(program, "lab sizes --json"))?)?;
    let structure = &found["structure"];
    let mut block = format!("On {}: ", text(&found["platform"]));
    writeln!(block, "`struct flock` has {} bytes.\n", structure["size"])?;
    block += "| member | offset | bytes |\n|---|---:|---:|\n";
    for member in list(&structure["members"])? {
        let name = text(&member["name"]);
        writeln!(block, "| `{name}` | {} | {} |", member["offset"], member["size"])?;
    }
    let constants: Vec<String> = list(&found["constants"])?
        .iter()
        .map(|constant| format!("`{}` {}", text(&constant["name"]), constant["value"]))
        .collect();
    writeln!(block, "\n{}.", constants.join(", "))?;
    write!(block, "\nFor Python's `struct` module: `{}`.", text(&structure["python_format"]))?;
    Ok(block)
}

fn probe<'a>(found: &'a Value, name: &str) -> Result<&'a Value> {
    let probes = list(&found["probes"])?;
    let known = probes.iter().find(|probe| probe["name"] == name);
    known.with_context(|| format!("there is no probe `{name}`"))
}

/// How many answers are not as expected.
fn unexpected(probe: &Value) -> usize {
    let answers = probe["answers"].as_array().into_iter().flatten();
    answers.filter(|answer| answer["as_expected"] == false).count()
}

fn cell(answer: &Value) -> &str {
    match text(&answer["verdict"]) {
        "not applicable" => "–",
        verdict => verdict,
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().context("this is not what lockmgr lab --json prints")
}

/// Without what would end a cell.
fn in_table(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The page with each place filled with what `text` says for it.
fn filled(page: &str, text: impl Fn(&str) -> Result<String>) -> Result<String> {
    let mut new = String::new();
    let mut rest = page;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (what, after) = after.split_once(" -->").context("a marker without an end")?;
        let (_, after) =
            after.split_once(END).with_context(|| format!("nothing ends `{BEGIN}{what} -->`"))?;
        let filling = text(what)?;
        write!(new, "{before}{BEGIN}{what} -->\n\n{}\n\n{END}", filling.trim())?;
        rest = after;
    }
    new.push_str(rest);
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_markers_is_replaced() {
        let old = "a\n<!-- research:one x -->\nold\n<!-- research:end -->\nb\n";
        let first = filled(old, |what| Ok(what.to_uppercase())).unwrap();
        assert_eq!(first, "a\n<!-- research:one x -->\n\nONE X\n\n<!-- research:end -->\nb\n");
        assert_eq!(filled(&first, |what| Ok(what.to_uppercase())).unwrap(), first);
        assert_eq!(filled("no markers", |_| bail!("not asked")).unwrap(), "no markers");
        for broken in ["<!-- research:x", "<!-- research:x -->"] {
            assert!(filled(broken, |_| Ok(String::new())).is_err());
        }
    }

    #[test]
    fn the_page_has_no_place_that_is_not_known() {
        let page = fs::read_to_string(step::root().join("docs/research.md")).unwrap();
        let known = [
            "run",
            "matrix",
            "names",
            "filesystems",
            "served",
            "trouble",
            "sizes",
            "answers",
            "story",
        ];
        let places = std::cell::Cell::new(0);
        filled(&page, |what| {
            places.set(places.get() + 1);
            assert!(known.contains(&what.split(' ').next().unwrap()), "{what}");
            Ok(String::new())
        })
        .unwrap();
        assert!(places.get() > 10, "{places:?}");
    }
}
