//! A connection to the controller for one person's command: one request after the other.
//!
//! *Must never* say a request twice by itself: what an operator changes is not the same when it is done twice.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::dial::dial;
use super::frame::{self, FrameError};
use super::protocol::{Answer, Call, Hello, Request, Role, Said, TEXT_BYTES_MAX, VERSION, Welcome, understands};

/// How long an answer may take.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Nobody listens there.
    #[error("no controller listens on {socket}: {source}")]
    Nobody {
        /// The socket.
        socket: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It speaks another version.
    #[error("the controller (carboy {program}) speaks another version of the protocol: {why}")]
    Version {
        /// The controller's program, where it said so.
        program: String,
        /// The version that it speaks.
        version: u16,
        /// In its words.
        why: String,
    },
    /// It ends the connection.
    #[error("the controller says: {0}")]
    Goodbye(String),
    /// It says no.
    #[error("{0}")]
    Refused(String),
    /// Nothing comes back.
    #[error("the controller does not answer within {} s; find it with `fuser` on its socket", ANSWER_WAIT_MAX.as_secs())]
    Silent,
    /// It says something that was not asked.
    #[error("the controller answered something that was not asked; start it again: carboy controller stop")]
    Misunderstood,
    /// It ended before it answered.
    #[error("the controller ended before it answered; look with `carboy budget show` whether it was done")]
    Ended,
    /// The connection.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// A connection.
pub struct Line {
    stream: UnixStream,
    welcome: Welcome,
    next: u64,
    /// How long an answer may take.
    patience: Option<Duration>,
}

impl Line {
    /// Connects and greets.
    pub async fn open(socket: &Path, program: &str, role: Role) -> Result<Line, LineError> {
        Line::speaking(socket, VERSION, program, role).await
    }

    /// The same in an older version, to ask an older controller to end.
    pub async fn speaking(socket: &Path, version: u16, program: &str, role: Role) -> Result<Line, LineError> {
        let nobody = |source| LineError::Nobody { socket: socket.to_owned(), source };
        let mut stream = dial(socket).await.map_err(nobody)?;
        let hello = frame::encode(&Hello { version, program: program.to_owned(), role })?;
        let greeting = async {
            stream.write_all(&hello).await.map_err(FrameError::Io)?;
            frame::read::<Said>(&mut stream).await
        };
        match timeout(ANSWER_WAIT_MAX, greeting).await.map_err(|_| LineError::Silent)?? {
            Some(Said::Welcome(welcome)) if understands(VERSION, welcome.version) => {
                Ok(Line { stream, welcome, next: 0, patience: Some(ANSWER_WAIT_MAX) })
            }
            Some(Said::Welcome(welcome)) => {
                let why = "it greeted in a version that was not asked for".to_owned();
                Err(LineError::Version { program: welcome.program, version: welcome.version, why })
            }
            Some(Said::Goodbye(goodbye)) if goodbye.version != version => {
                Err(LineError::Version { program: goodbye.program, version: goodbye.version, why: goodbye.why })
            }
            Some(Said::Goodbye(goodbye)) => Err(LineError::Goodbye(goodbye.why)),
            Some(Said::Answer(..) | Said::Push(_)) => Err(LineError::Misunderstood),
            None => Err(LineError::Ended),
        }
    }

    /// How the controller greeted.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Asks and waits for the answer.
    pub async fn ask(&mut self, call: Call) -> Result<Answer, LineError> {
        let number = self.send(call).await?;
        loop {
            let (answered, answer) = self.next().await?.ok_or(LineError::Ended)?;
            if answered == number {
                return if let Answer::Refused(why) = answer { Err(LineError::Refused(why)) } else { Ok(answer) };
            }
        }
    }

    /// Asks, and leaves the answers to [`next`](Self::next).
    pub async fn send(&mut self, call: Call) -> Result<u64, LineError> {
        let number = self.next;
        self.next += 1;
        let frame = frame::encode(&Request { number, call })?;
        let written = timeout(ANSWER_WAIT_MAX, self.stream.write_all(&frame)).await;
        written.map_err(|_| LineError::Silent)?.map_err(FrameError::Io)?;
        Ok(number)
    }

    /// The next snapshot of a [`Call::Watch`] that was sent before. It comes when something changes, so there is no longest
    /// wait; not to be dropped in the middle.
    pub async fn watched(&mut self, number: u64) -> Result<String, LineError> {
        self.patience = None;
        self.rest_of_text(number).await
    }

    /// The next answer; `None` when the controller has closed.
    pub async fn next(&mut self) -> Result<Option<(u64, Answer)>, LineError> {
        let read = frame::read::<Said>(&mut self.stream);
        let said = match self.patience {
            Some(patience) => timeout(patience, read).await.map_err(|_| LineError::Silent)??,
            None => read.await?,
        };
        match said {
            Some(Said::Answer(number, answer)) => Ok(Some((number, answer))),
            Some(Said::Goodbye(goodbye)) => Err(LineError::Goodbye(goodbye.why)),
            Some(Said::Welcome(_) | Said::Push(_)) => Err(LineError::Misunderstood),
            None => Ok(None),
        }
    }

    /// Asks for a text that comes in parts.
    pub async fn text(&mut self, call: Call) -> Result<String, LineError> {
        let number = self.send(call).await?;
        self.rest_of_text(number).await
    }

    /// The next text of a request that was [sent](Self::send) before.
    pub async fn rest_of_text(&mut self, number: u64) -> Result<String, LineError> {
        let mut whole = String::new();
        loop {
            match self.next().await?.ok_or(LineError::Ended)? {
                (answered, Answer::Part { text, more }) if answered == number => {
                    whole.push_str(&text);
                    if whole.len() > TEXT_BYTES_MAX {
                        return Err(LineError::Misunderstood);
                    }
                    if !more {
                        return Ok(whole);
                    }
                }
                (answered, Answer::Refused(why)) if answered == number => return Err(LineError::Refused(why)),
                (_, _) => return Err(LineError::Misunderstood),
            }
        }
    }

    /// Ready when the controller has closed the connection.
    pub async fn closed(mut self) {
        while let Ok(Some(_)) = self.next().await {}
    }
}
