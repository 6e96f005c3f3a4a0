//! The messages of util-linux 2.38 as its development version of August 2026 words them: all differences
//! between the two that these tests meet, one by one.

/// What the newer version says, where the older one said this about these words.
pub(super) fn translated(said: &str, words: &[&str]) -> String {
    said.split_inclusive('\n').map(|line| translated_line(line, words)).collect()
}

fn translated_line(line: &str, words: &[&str]) -> String {
    let word = |found: Option<&&str>| found.copied().unwrap_or_default().to_owned();
    let unrecognized = |word: String| format!("flock: unrecognized option '{word}'\n");
    // getopt_long's own messages became the program's, and repeat the word as it was typed.
    if let Some(letter) = between(line, "flock: invalid option -- '", "'\n") {
        let is_meant = |word: &&&str| {
            word.starts_with('-') && !word.starts_with("--") && word[1..].contains(letter)
        };
        return unrecognized(word(words.iter().find(is_meant)));
    }
    if let Some(option) = between(line, "flock: option '", "' is ambiguous; possibilities: ") {
        return unrecognized(option.to_owned());
    }
    if let Some(option) = between(line, "flock: option '", "' doesn't allow an argument") {
        let is_meant = |word: &&&str| {
            word.split_once('=').is_some_and(|(name, _)| name.len() > 2 && option.starts_with(name))
        };
        return unrecognized(word(words.iter().find(is_meant)));
    }
    if line.starts_with("flock: option requires an argument -- '")
        || line.ends_with("' requires an argument\n")
    {
        return format!("flock: option '{}' requires an argument\n", word(words.last()));
    }
    if let Some(rest) = line.strip_prefix("flock: invalid timeout value: ") {
        let rest = rest.replace(": Numerical result out of range", "");
        return format!("flock: invalid timeout: {rest}");
    }
    if let Some(rest) = line.strip_prefix("flock: invalid exit code: ") {
        return format!("flock: invalid exit code (allowed values: 0-255): {rest}");
    }
    if line == "flock: exit code out of range (expected 0 to 255)\n" {
        let mut values = words.iter().enumerate().filter_map(|(at, word)| {
            let before = at.checked_sub(1).map_or("", |before| words[before]);
            let is_value = before == "-E" || before.starts_with("--conf") && !before.contains('=');
            let with_option = word.strip_prefix("-E").or(word.strip_prefix("--conf"));
            with_option.map_or(is_value.then_some(*word), |word| word.rsplit('=').next())
        });
        let is_meant = |value: &&str| {
            value.trim_start().parse::<i64>().is_ok_and(|code| !(0..=255).contains(&code))
        };
        let code = values.find(is_meant);
        return format!(
            "flock: invalid exit code (allowed values: 0-255): '{}': Numerical result out of range\n",
            code.unwrap_or_default()
        );
    }
    line.replace("flock: bad file descriptor: ", "flock: invalid file descriptor: ").replace(
        "flock: requires file descriptor, file or directory\n",
        "flock: missing file descriptor, file or directory\n",
    )
}

fn between<'a>(line: &'a str, before: &str, after: &str) -> Option<&'a str> {
    line.strip_prefix(before)?.split_once(after).map(|(found, _)| found)
}
