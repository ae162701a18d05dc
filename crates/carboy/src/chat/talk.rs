//! The conversation: a message, its reply, and what a person is asked in between.
//!
//! ```text
//!  line ─▶ turn ─▶ reply ─▶ card? ── y ─▶ confirm ─▶ reply …
//!            │                └───── n ─▶ decline
//!            └─ Ctrl-C: the turn is dropped; at the prompt it is the end
//! ```
//!
//! *Must never* go on when its agent was asked to end.

use std::future::Future;
use std::pin::pin;

use carboy_control::agent::{Line, Who};
use carboy_control::chat::{Card, ChatHost, Ending, Reply, TurnError};
use carboy_control::clock::SystemClock;
use carboy_core::ports::Clock;
use tokio::signal::unix::Signal;
use tokio::sync::watch;

use super::card::{CARDS_MAX, question};
use super::input::{Input, Said};
use super::page::Page;
use super::session::Conversation;
use super::words;
use crate::signals::{Heard, next};

/// Lines of a conversation that goes on which are shown again.
const EARLIER_MAX: usize = 6;

/// How a conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Went {
    /// Nothing more came, or the person left.
    ToTheEnd,
    /// Between pipes, and a turn failed.
    Failed,
    /// Between pipes, by a signal.
    Interrupted,
    /// Somebody asked it to end.
    Asked,
    /// At once.
    Killed,
}

/// What somebody may want at any time.
enum Wish {
    Interrupt,
    End(Ending),
}

struct Wishes<'h> {
    heard: &'h mut Heard,
    ending: watch::Receiver<Option<Ending>>,
    /// It was asked to end in order, and a turn is under way.
    asked: bool,
}

impl Wishes<'_> {
    async fn next(&mut self) -> Wish {
        let asked = self.asked;
        let fits = move |ending: &Option<Ending>| match ending {
            Some(Ending::Killed) => true,
            Some(Ending::Asked) => !asked,
            None => false,
        };
        let Heard { interrupt, terminate, hangup, resized: _ } = &mut *self.heard;
        tokio::select! {
            () = heard(interrupt) => Wish::Interrupt,
            () = heard(terminate), if !asked => Wish::End(Ending::Asked),
            () = heard(hangup), if !asked => Wish::End(Ending::Asked),
            found = self.ending.wait_for(fits) => {
                Wish::End(found.ok().and_then(|found| *found).unwrap_or(Ending::Killed))
            }
        }
    }
}

async fn heard(signal: &mut Option<Signal>) {
    next(signal).await;
}

/// What became of a request to the engine.
enum Came {
    Reply(Result<Reply, TurnError>),
    Stopped,
    Killed,
}

/// See the module.
pub struct Talk<'a> {
    host: &'a ChatHost,
    input: &'a mut Input,
    page: &'a Page,
    conversation: Conversation,
    failed: bool,
    /// Replies of the last message, and since when nothing else was told: lines of a conversation that came without one.
    replies: Vec<String>,
    told_ms: u64,
}

impl<'a> Talk<'a> {
    /// Of this agent, with whoever is at the other end of `input`.
    pub fn new(host: &'a ChatHost, input: &'a mut Input, page: &'a Page, conversation: Conversation) -> Talk<'a> {
        Talk { host, input, page, conversation, failed: false, replies: Vec::new(), told_ms: SystemClock.now_ms() }
    }

    /// Until it ends.
    pub async fn go_on(&mut self, heard: &mut Heard) -> Went {
        let mut wishes = Wishes { heard, ending: self.host.ending(), asked: false };
        let mut news = self.host.news();
        if self.conversation.goes_on() {
            self.earlier().await;
        }
        loop {
            let said = tokio::select! {
                biased;
                wish = wishes.next() => return self.wished(&wish),
                Ok(()) = news.changed() => {
                    self.news().await;
                    continue;
                }
                said = self.input.line() => said,
            };
            let went = match said {
                Said::Line(line) if line.trim().is_empty() => None,
                Said::Line(line) => {
                    if news.has_changed().unwrap_or_default() {
                        news.mark_unchanged();
                        self.news().await;
                    }
                    self.message(&line, &mut wishes).await
                }
                Said::End | Said::Yes | Said::No => Some(self.over()),
            };
            if let Some(went) = went.or_else(|| self.page.is_gone().then(|| self.over())) {
                return went;
            }
        }
    }

    fn over(&self) -> Went {
        if self.failed && !self.page.is_person() { Went::Failed } else { Went::ToTheEnd }
    }

    fn wished(&self, wish: &Wish) -> Went {
        match wish {
            Wish::Interrupt if self.page.is_person() => Went::ToTheEnd,
            Wish::Interrupt => Went::Interrupted,
            Wish::End(Ending::Killed) => Went::Killed,
            Wish::End(Ending::Asked) => {
                if self.page.is_person() {
                    // Under the line that was being typed.
                    show_part!("\r\n");
                    self.page.say(&self.host.engine().spec().prompt.hand_off);
                }
                Went::Asked
            }
        }
    }

    /// The last lines of a conversation that goes on.
    async fn earlier(&mut self) {
        match self.host.engine().transcript(self.conversation.asker()).await {
            Ok(lines) if lines.is_empty() => self.page.note("the last conversation is over: a new one begins"),
            Ok(lines) if self.page.is_person() => {
                for line in &lines[lines.len().saturating_sub(EARLIER_MAX)..] {
                    let who = match line.who {
                        Who::Person => "You: ",
                        Who::Agent => "Agent: ",
                        Who::Step | Who::Note => "· ",
                    };
                    self.page.earlier(who, &line.text);
                }
            }
            // What it was told since the agent was started: answers that were given while it was away.
            Ok(_) => {
                self.told_ms = self.host.record().started_ms;
                self.news().await;
            }
            Err(_) => match self.conversation.anew() {
                Ok(()) => self.page.note("the last conversation cannot be read any more: a new one begins"),
                Err(failure) => self.page.note(&failure.message),
            },
        }
    }

    /// An operator has answered, perhaps in this conversation: what came since the last reply is shown, once.
    async fn news(&mut self) {
        let Ok(lines) = self.host.engine().transcript(self.conversation.asker()).await else { return };
        let known = |line: &Line| line.at_ms <= self.told_ms || self.replies.contains(&line.text);
        for line in lines.iter().filter(|line| line.who == Who::Agent && !known(line)) {
            self.page.aside(&line.text);
        }
        self.told_ms = lines.last().map_or(self.told_ms, |line| line.at_ms.max(self.told_ms));
    }

    /// One message to its last reply; how it all ended, where it did.
    async fn message(&mut self, message: &str, wishes: &mut Wishes<'_>) -> Option<Went> {
        let (host, page) = (self.host, self.page);
        self.replies.clear();
        self.told_ms = SystemClock.now_ms();
        let watch = |event| page.event(event);
        let mut came = under(wishes, host.engine().turn(self.conversation.asker(), message, &watch)).await;
        if let Came::Reply(Err(TurnError::SessionOver { problem })) = &came {
            page.note(&format!("{problem}: it begins now"));
            if let Err(failure) = self.conversation.anew() {
                page.note(&failure.message);
            }
            came = under(wishes, host.engine().turn(self.conversation.asker(), message, &watch)).await;
        }
        let mut card = match self.came(came) {
            Ok(card) => card,
            Err(went) => return Some(went),
        };
        for _ in 0..CARDS_MAX {
            let Some(waiting) = card.take() else { break };
            let came = match self.agreed(&waiting, wishes).await {
                Ok(true) => {
                    under(wishes, host.engine().confirm(self.conversation.asker(), &waiting.token, &watch)).await
                }
                Ok(false) => under(wishes, host.engine().decline(self.conversation.asker(), &waiting.token)).await,
                Err(went) => return Some(went),
            };
            card = match self.came(came) {
                Ok(card) => card,
                Err(went) => return Some(went),
            };
        }
        wishes.asked.then(|| self.wished(&Wish::End(Ending::Asked)))
    }

    /// Shows what came; the card that waits now.
    fn came(&mut self, came: Came) -> Result<Option<Card>, Went> {
        match came {
            Came::Reply(Ok(reply)) => {
                self.page.reply(&reply);
                self.replies.push(reply.text);
                Ok(reply.card)
            }
            Came::Reply(Err(error)) => {
                self.failed |= words::is_failure(&error);
                self.page.say(&words::refusal(&error));
                Ok(None)
            }
            Came::Stopped if self.page.is_person() => {
                self.page.note("stopped: this turn was none");
                Ok(None)
            }
            Came::Stopped => Err(Went::Interrupted),
            Came::Killed => Err(Went::Killed),
        }
    }

    /// Does the person want it? Nobody is asked who is not there.
    async fn agreed(&mut self, card: &Card, wishes: &mut Wishes<'_>) -> Result<bool, Went> {
        self.page.card(card);
        if !self.page.is_person() {
            self.page.note("nobody is at a terminal to confirm this: the answer is no");
            return Ok(false);
        }
        tokio::select! {
            biased;
            wish = wishes.next() => match wish {
                Wish::Interrupt => Ok(false),
                Wish::End(_) => Err(self.wished(&wish)),
            },
            said = self.input.yes_no(question(card)) => match said {
                Said::Yes => Ok(true),
                Said::No | Said::Line(_) => Ok(false),
                Said::End => Err(Went::ToTheEnd),
            },
        }
    }
}

/// Waits for it, unless somebody wants something else.
async fn under(wishes: &mut Wishes<'_>, request: impl Future<Output = Result<Reply, TurnError>>) -> Came {
    let mut request = pin!(request);
    loop {
        tokio::select! {
            biased;
            wish = wishes.next() => match wish {
                Wish::Interrupt => return Came::Stopped,
                Wish::End(Ending::Killed) => return Came::Killed,
                // In order: a turn under way may end.
                Wish::End(Ending::Asked) => wishes.asked = true,
            },
            ended = &mut request => return Came::Reply(ended),
        }
    }
}
