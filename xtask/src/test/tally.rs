//! Counts over all test binaries, from what they print.

/// Sums so far.
#[derive(Debug, Default)]
pub struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    reasons: Vec<String>,
    failures: Vec<String>,
    /// Those that only the binary's own lines name, with the reason that stands there.
    ignored: Vec<(String, String)>,
    /// Skips told by the binary that is running: its closing line counts them as passed or as ignored.
    told: u64,
}

impl Tally {
    /// Takes the next line of output.
    pub fn take(&mut self, line: &str) {
        if let Some(skip) = line.strip_prefix("skipped: ") {
            self.told += 1;
            self.reasons.push(skip.trim_end().to_owned());
        } else if let Some((name, end)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            if end == "FAILED" {
                self.failures.push(name.to_owned());
            } else if let Some(why) = end.strip_prefix("ignored") {
                let why = why.trim_start_matches(", ");
                self.ignored.push((name.to_owned(), if why.is_empty() { "no reason given" } else { why }.to_owned()));
            }
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            let (passed, ignored) = (number(counts, " passed"), number(counts, " ignored"));
            let told = std::mem::take(&mut self.told);
            // What was told beyond the ignored ones returned early, and counts itself as passed.
            self.passed += passed.saturating_sub(told.saturating_sub(ignored));
            self.failed += number(counts, " failed");
            self.skipped += told.max(ignored);
        }
    }

    /// How many failed.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Their names, as far as they were printed.
    pub fn failures(&self) -> String {
        if self.failures.is_empty() { "see above".to_owned() } else { self.failures.join(", ") }
    }

    /// Why tests were skipped, one line each.
    pub fn skipped_reasons(&self) -> Vec<String> {
        let told =
            |name: &str| self.reasons.iter().any(|line| line.strip_prefix(name).is_some_and(|l| l.starts_with(": ")));
        let silent = self.ignored.iter().filter(|(name, _)| !told(name)).map(|(name, why)| format!("{name}: {why}"));
        self.reasons.iter().cloned().chain(silent).collect()
    }

    /// The closing line.
    pub fn line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped + self.told)
    }
}

/// The number before a word.
fn number(counts: &str, word: &str) -> u64 {
    let before = counts.split(word).next().unwrap_or("");
    before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(output: &str) -> String {
        let mut tally = Tally::default();
        output.lines().for_each(|line| tally.take(line));
        tally.line()
    }

    #[test]
    fn binaries_are_added_up() {
        let output = "
test a ... ok
test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
test b ... FAILED
test result: FAILED. 12 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        assert_eq!(line(output), "15 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn every_skip_has_a_line_and_none_has_two() {
        let mut tally = Tally::default();
        let output = "skipped: a b: no curl\ntest a b ... ignored\ntest c ... ignored, slow\ntest d ... ignored\n";
        output.lines().for_each(|line| tally.take(line));
        assert_eq!(tally.skipped_reasons(), ["a b: no curl", "c: slow", "d: no reason given"]);
    }

    #[test]
    fn a_told_skip_is_not_a_pass_however_the_harness_counts_it() {
        let told = "skipped: claude: not installed\nskipped: java: not installed\n";
        let result =
            |passed, ignored| format!("{told}test result: ok. {passed} passed; 0 failed; {ignored} ignored;\n");
        assert_eq!(line(&result(5, 0)), "3 passed, 0 failed, 2 skipped");
        assert_eq!(line(&result(3, 2)), "3 passed, 0 failed, 2 skipped");
        assert_eq!(line(&result(4, 1)), "3 passed, 0 failed, 2 skipped");
    }
}
