//! Who answers: the person at the terminal, or the defaults.

use carboy_core::secret::SecretText;

use crate::args::InitArgs;
use crate::report::{Exit, Failure, printable};
use crate::terminal;

/// Most characters of an answer.
const ANSWER_CHARS_MAX: usize = 4096;

/// Where answers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// A person is asked.
    Person,
    /// Nobody is: the defaults are taken, and what has none fails.
    Defaults,
}

/// What Enter means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usual {
    /// Yes.
    Yes,
    /// No.
    No,
}

impl Answers {
    /// A person, when there is a terminal and nothing says that it is not to be used.
    pub fn of(args: &InitArgs) -> Answers {
        let terminal = rustix::termios::isatty(std::io::stdin()) && rustix::termios::isatty(std::io::stderr());
        let asks = terminal && !args.yes && !args.json && !args.dry_run;
        if asks { Answers::Person } else { Answers::Defaults }
    }

    /// Is somebody asked?
    pub fn asks(&self) -> bool {
        *self == Answers::Person
    }

    /// A line; the usual one for an empty answer, and when nobody is asked.
    pub fn line(&self, question: &str, usual: &str) -> Result<String, Failure> {
        if !self.asks() {
            return Ok(usual.to_owned());
        }
        say_part!("{} [{}] ", printable(question), printable(usual));
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer).map_err(|e| Failure::new(Exit::Failed, &e))?;
        if read == 0 {
            return Err(Failure::words(Exit::Refused, "nothing was written"));
        }
        let answer: String = answer.trim().chars().take(ANSWER_CHARS_MAX).collect();
        Ok(if answer.is_empty() { usual.to_owned() } else { answer })
    }

    /// Yes or no; the usual one when nobody is asked.
    pub fn yes_or_no(&self, question: &str, usual: Usual) -> Result<bool, Failure> {
        let shown = match usual {
            Usual::Yes => "Y/n",
            Usual::No => "y/N",
        };
        if !self.asks() {
            return Ok(usual == Usual::Yes);
        }
        loop {
            let answer = self.line(question, shown)?;
            match answer.to_ascii_lowercase().as_str() {
                _ if answer == shown => return Ok(usual == Usual::Yes),
                "y" | "yes" => return Ok(true),
                "n" | "no" => return Ok(false),
                _ => say!("  please answer y or n"),
            }
        }
    }

    /// One of several, by number or by name; the usual one when nobody is asked.
    pub fn one_of<'c, T>(
        &self,
        question: &str,
        choices: &'c [(&str, T, String)],
        usual: usize,
    ) -> Result<&'c T, Failure> {
        if self.asks() {
            say!("{question}");
            for (number, (name, _, what)) in choices.iter().enumerate() {
                say!("  {}) {name:<14} {what}", number + 1);
            }
        }
        loop {
            let answer = self.line("  number", &(usual + 1).to_string())?;
            let by_number = answer.parse::<usize>().ok().and_then(|number| choices.get(number.checked_sub(1)?));
            match by_number.or_else(|| choices.iter().find(|(name, ..)| *name == answer)) {
                Some((_, chosen, _)) => return Ok(chosen),
                None => say!("  please answer a number from 1 to {}", choices.len()),
            }
        }
    }

    /// A secret, typed without being shown.
    pub fn secret(&self, question: &str) -> Result<SecretText, Failure> {
        terminal::ask(question).map(SecretText::new).map_err(|e| Failure::new(Exit::Failed, &e))
    }
}
