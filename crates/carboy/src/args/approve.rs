//! Arguments of `approve`.

use clap::Args;

/// Characters of a word to the person.
const SAY_CHARS_MAX: usize = 300;

#[derive(Debug, Args)]
#[command(
    after_help = "Without an id it lists what waits. With one it shows the question, and at a terminal asks for the answer. An answer is \
                  given once, is in the log with your name, and reaches its conversation while the agent runs; the person there reads \
                  how it ended. The conversation that a question came from can be read while it waits and for a week after it was answered, as long as \
                  the conversation is kept. Exit codes: 0 listed, shown or answered, 1 there is no such question or conversation, or it is \
                  over or answered, 2 bad usage."
)]
pub struct ApproveArgs {
    /// The question, as in a-0123456789ab [default: all that wait]
    pub id: Option<String>,
    /// Answer yes: what it asks for is done, with exactly what it shows
    #[arg(long, short = 'y', requires = "id", conflicts_with = "no")]
    pub yes: bool,
    /// Answer no: nothing is done
    #[arg(long, requires = "id")]
    pub no: bool,
    /// A word to the person in the conversation, besides how it ended
    #[arg(long, value_name = "TEXT", requires = "id", value_parser = word)]
    pub say: Option<String>,
    /// Show what was said where the question came from, as the person in it reads it; that you read it is in the log
    #[arg(long, short = 'c', requires = "id", conflicts_with_all = ["yes", "no", "say"])]
    pub conversation: bool,
    /// All of it, and not the last lines alone
    #[arg(long, requires = "conversation")]
    pub all: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn word(text: &str) -> Result<String, String> {
    let fits = !text.trim().is_empty() && text.chars().count() <= SAY_CHARS_MAX && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned()).ok_or_else(|| format!("one line of 1 to {SAY_CHARS_MAX} characters"))
}
