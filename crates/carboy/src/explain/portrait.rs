//! `carboy explain AGENT`: who an agent is, what it may reach and spend, and who is asked; for people, as text or as a page.
//!
//! ```text
//!  file ─▶ carboy check ─▶ EffectiveView ─▶ sections, tables, diagrams ─┐
//!    └─▶ prose and code of the file, as they stand ────────────────────┴─▶ page::Page ─▶ FILE, stylesheet, pictures
//! ```
//!
//! *Must never* show a value of a secret or of a variable, or a page of a file that `carboy check` does not pass.

mod chat;
mod sections;

use std::path::{Path, PathBuf};

use carboy_manifest::chat::Flags;
use carboy_manifest::check::{CheckedFile, FileKind};
use carboy_manifest::view::EffectiveView;
use carboy_manifest::{CheckReport, Manifest, Request, check};
use carboy_weave::page::{Page, Site};
use carboy_weave::{Document, TreePath, Unused, tangle_where};

use crate::applications::ProgramFiles;
use crate::args::ExplainArgs;
use crate::chat_file;
use crate::check::agent_page;
use crate::environment::Environment;
use crate::lit::{Tree, invalid};
use crate::print;
use crate::report::{self, Exit, Failure, Palette, printable};

/// Explains an agent, or a bottle of that name.
pub fn explain(args: &ExplainArgs, environment: &Environment) -> Result<u8, Failure> {
    let (report, file) = look_up(&args.what, environment)?;
    let Some(view) = report.effective.as_ref().filter(|_| report.ok) else {
        let said: Vec<String> = report.diagnostics.iter().map(ToString::to_string).collect();
        return Err(Failure::diagnostics(Exit::Config, &said.join("\n")));
    };
    if args.json {
        let view = serde_json::to_string(view).map_err(|e| Failure::new(Exit::Failed, &e))?;
        return print(format!("{view}\n").as_bytes());
    }
    let Some(html) = &args.html else {
        let text = agent_page(view, environment, Palette::stdout());
        let code = print(report::wrapped(&text, report::columns(std::io::stdout())).as_bytes())?;
        say!("the same as a page, with its prose and its code: carboy explain {} --html FILE.html", args.what);
        return Ok(code);
    };
    write(html, &site(view, &file, name_of(html)?)?)
}

/// Is there a file of this name, of the user's or of the working directory's?
pub fn is_written(agent: &str, environment: &Environment) -> bool {
    let request = Request { agent: None, bottles: Vec::new(), places: environment.places.clone() };
    let named = |file: &CheckedFile| file.path.file_stem().is_some_and(|stem| stem == agent);
    check(&ProgramFiles, &request).files.iter().any(|file| file.kind == FileKind::Agent && named(file))
}

/// The page of a chat agent that is served.
pub fn of(agent: &str, name: &str, environment: &Environment) -> Result<Site, Failure> {
    let (report, file) = look_up(agent, environment)?;
    match report.effective.as_ref().filter(|_| report.ok) {
        Some(view) => site(view, &file, name),
        None => {
            let said: Vec<String> = report.diagnostics.iter().map(ToString::to_string).collect();
            Err(Failure::diagnostics(Exit::Config, &said.join("\n")))
        }
    }
}

/// The check of an agent, else of a bottle, and its file.
fn look_up(name: &str, environment: &Environment) -> Result<(CheckReport, Source), Failure> {
    let asked = |agent: Option<String>, bottles: Vec<String>| {
        check(&ProgramFiles, &Request { agent, bottles, places: environment.places.clone() })
    };
    let is = |kind: FileKind| {
        move |file: &&CheckedFile| file.kind == kind && file.path.file_stem().is_some_and(|stem| stem == name)
    };
    let all = asked(None, Vec::new());
    let agent = match all.files.iter().find(is(FileKind::Agent)) {
        Some(file) => Some(Source::read(&file.path)?),
        None => Manifest::built_in_text(&ProgramFiles, name)
            .map(|text| Source { path: PathBuf::from(format!("{name}.md")), text }),
    };
    if let Some(agent) = agent {
        let mut report = asked(Some(name.to_owned()), Vec::new());
        if let Some(file) = report.chat.take() {
            let (places, lookup) = (&environment.places, environment.lookup.as_ref());
            let settled = chat_file::settle(&file, places, lookup, &Flags::default());
            report = report.with_chat(settled.chat);
        }
        return Ok((report, agent));
    }
    if let Some(bottle) = all.files.iter().find(is(FileKind::Bottle)) {
        return Ok((asked(None, vec![name.to_owned()]), Source::read(&bottle.path)?));
    }
    let names = all.files.iter().filter(|file| file.kind != FileKind::Settings);
    let names = names.filter_map(|file| file.path.file_stem()).map(|stem| stem.display().to_string());
    let names: Vec<String> = names.chain(Manifest::built_in_names(&ProgramFiles)).collect();
    let hint = format!("there are {}; a refusal's id looks like x-4k7m2q", names.join(", "));
    Err(Failure::words(Exit::Usage, format!("no agent and no bottle is called `{}`", printable(name))).hint(hint))
}

/// The page's name, from the file that a person named.
fn name_of(html: &Path) -> Result<&str, Failure> {
    let stem = html.file_stem().and_then(|stem| stem.to_str());
    let ending = html.extension().is_some_and(|ending| ending == "html");
    stem.filter(|_| ending).ok_or_else(|| {
        Failure::words(Exit::Usage, format!("{} is no name of a page", printable(&html.display().to_string())))
            .hint("name it NAME.html; NAME.css and its pictures are written beside it")
    })
}

/// An agent's or a bottle's file.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn read(path: &Path) -> Result<Source, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::words(Exit::Config, format!("{} cannot be read: {error}", printable(&path.display().to_string())))
        })?;
        Ok(Source { path: path.to_owned(), text })
    }
}

/// The page.
fn site(view: &EffectiveView, source: &Source, name: &str) -> Result<Site, Failure> {
    let Source { path: file, text } = source;
    let document = Document::parse(text).map_err(|faults| invalid(file, &faults))?;
    let who = view.agent.as_ref().map_or(view.bottle.as_str(), |agent| agent.as_str());
    let title = document.title().unwrap_or_else(|| who.to_owned());
    let mut page = Page::new(name, &title);
    page.heading(1, &title);
    sections::write(&mut page, view, who).map_err(|problem| {
        Failure::words(Exit::Failed, format!("a diagram cannot be drawn: {}", printable(&problem.fault.to_string())))
    })?;
    if !document.markdown().0.trim().is_empty() {
        page.heading(2, "In its own words");
        page.paragraph("What stands in its file below the settings; for an agent, this is what its program is told.");
        // That every chunk is used was looked at when the file was checked.
        let tangled = tangle_where(&document, Unused::Elsewhere).map_err(|faults| invalid(file, &faults))?;
        let beside = Tree::at(file.parent().unwrap_or(Path::new("")));
        page.document(&document, &tangled, &beside.repository()).map_err(|faults| invalid(file, &faults))?;
        page.files(&document, &tangled);
    }
    page.render().map_err(|faults| invalid(file, &faults))
}

fn write(html: &Path, site: &Site) -> Result<u8, Failure> {
    let tree = Tree::at(html.parent().unwrap_or(Path::new("")));
    let mut all = Vec::new();
    for (name, text) in &site.files {
        let path = TreePath::parse(name).map_err(|fault| Failure::new(Exit::Usage, &fault))?;
        let now = tree.bytes(&path)?;
        // The page is the file that was named. What stands beside it may be somebody else's.
        let own = |old: &[u8]| old.lines_first() == text.as_bytes().lines_first();
        if name != &site.page && now.as_deref().is_some_and(|old| !own(old)) {
            let said = format!("{} stands beside the page and is not its own", printable(name));
            return Err(Failure::words(Exit::Refused, said).hint("give the page another name, or move that file"));
        }
        all.push((path, text, now));
    }
    for (path, text, now) in all {
        if now.as_deref() != Some(text.as_bytes()) {
            tree.write(&path, text.as_bytes())?;
        }
    }
    say!("{}", printable(&html.display().to_string()));
    Ok(0)
}

/// The beginning by which a file of ours is known.
trait Begins {
    fn lines_first(&self) -> &[u8];
}

impl Begins for [u8] {
    fn lines_first(&self) -> &[u8] {
        const KNOWN_BYTES: usize = 48;
        let line = self.split(|byte| *byte == b'\n').next().unwrap_or_default();
        &line[..line.len().min(KNOWN_BYTES)]
    }
}
