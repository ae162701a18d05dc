//! `docs/SUMMARY.md`: chapters (`## Name`) of entries (`- [Name](path)`), in reading order.

/// A heading of the navigation.
pub struct Chapter {
    pub name: String,
    pub entries: Vec<Entry>,
}

/// A page of it.
pub struct Entry {
    pub name: String,
    /// From the top of the repository.
    pub source: String,
}

/// Anything else than chapters and entries is an error.
pub fn parse(file: &str, text: &str) -> Result<Vec<Chapter>, String> {
    let mut chapters: Vec<Chapter> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let wrong = |what: &str| format!("{file}:{}: {what}", number + 1);
        if let Some(name) = line.strip_prefix("## ") {
            chapters.push(Chapter { name: name.to_owned(), entries: Vec::new() });
        } else if let Some(rest) = line.strip_prefix("- [") {
            let (name, rest) = rest.split_once("](").ok_or_else(|| wrong("write `- [Name](path)`"))?;
            let path = rest.strip_suffix(')').ok_or_else(|| wrong("write `- [Name](path)`"))?;
            let source = super::below(file, path).map_err(|why| wrong(&why))?;
            if chapters.iter().flat_map(|c| &c.entries).any(|entry| entry.source == source) {
                return Err(wrong(&format!("{source} stands here for the second time")));
            }
            let chapter = chapters.last_mut().ok_or_else(|| wrong("an entry before the first chapter"))?;
            chapter.entries.push(Entry { name: name.to_owned(), source });
        } else if !line.trim().is_empty() && !line.starts_with("# ") {
            return Err(wrong("neither a chapter (`## Name`) nor an entry (`- [Name](path)`)"));
        }
    }
    if chapters.iter().all(|chapter| chapter.entries.is_empty()) {
        return Err(format!("{file} names no page"));
    }
    Ok(chapters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chapters_and_entries_are_read_and_nothing_else_is_let_pass() {
        let chapters =
            parse("docs/SUMMARY.md", "# S\n\n## Start\n\n- [Install](install.md)\n- [All](../README.md)\n").unwrap();
        let sources: Vec<&str> = chapters[0].entries.iter().map(|entry| entry.source.as_str()).collect();
        assert_eq!(sources, ["docs/install.md", "README.md"]);
        for wrong in ["- [a](a.md)\n", "## A\n* [a](a.md)\n", "## A\n- [a](a.md)\n- [b](a.md)\n", "## A\n"] {
            assert!(parse("docs/SUMMARY.md", wrong).is_err(), "{wrong}");
        }
    }
}
