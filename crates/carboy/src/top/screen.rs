//! The terminal: taken, given back whatever happens, and left for a while.
//!
//! *Must never* leave a terminal raw, on its second screen, or with its mouse taken.

use std::io::{Stdout, stdout};
use std::mem::ManuallyDrop;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, DisableMouseCapture, EnableMouseCapture};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::layout::Rect;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use super::keys::Key;

/// Events that are taken at once: a mouse in motion must not keep the figures from being drawn.
const EVENTS_MAX: usize = 64;

/// Whose the mouse is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mouse {
    Ours,
    Terminals,
}

/// A terminal that was taken.
pub struct Screen {
    /// Never dropped: it would say on standard error that a terminal which is gone has no cursor, and panic since nobody
    /// hears it. [`give_back`] shows the cursor.
    terminal: ManuallyDrop<Terminal<CrosstermBackend<Stdout>>>,
    mouse: Mouse,
}

impl Screen {
    /// Takes it. A panic gives it back before it says what it is about.
    pub fn take(mouse: Mouse) -> std::io::Result<Screen> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        let terminal = ManuallyDrop::new(Terminal::new(CrosstermBackend::new(stdout()))?);
        let mut screen = Screen { terminal, mouse };
        screen.enter()?;
        Ok(screen)
    }

    /// Takes it again, after it was left or whoever continued the program has changed it.
    pub fn enter(&mut self) -> std::io::Result<()> {
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen)?;
        if self.mouse == Mouse::Ours {
            execute!(stdout(), EnableMouseCapture)?;
        }
        self.terminal.hide_cursor()?;
        self.terminal.clear()
    }

    /// Gives it back for a while.
    pub fn leave(&mut self) {
        give_back();
    }

    /// Stops this program, as Ctrl-Z does; comes back when it is continued.
    pub fn suspend(&mut self) -> std::io::Result<()> {
        self.leave();
        kill_process(getpid(), Signal::TSTP)?;
        self.enter()
    }

    pub fn area(&self) -> Rect {
        self.terminal.size().map_or(Rect::new(0, 0, 80, 24), |size| Rect::new(0, 0, size.width, size.height))
    }

    /// Draws; only what has changed is written.
    pub fn draw(&mut self, draw: impl FnOnce(&mut ratatui::buffer::Buffer)) -> std::io::Result<()> {
        self.terminal.draw(|frame| draw(frame.buffer_mut()))?;
        Ok(())
    }

    /// What was pressed, waiting for so long at most.
    pub fn keys(&mut self, wait_max: Duration) -> std::io::Result<Vec<Key>> {
        wait_for_terminal(wait_max)?;
        let mut keys = Vec::new();
        while keys.len() < EVENTS_MAX && event::poll(Duration::ZERO)? {
            keys.extend(Key::of(&event::read()?));
        }
        Ok(keys)
    }
}

/// Waits until there is something to read. An error when the terminal is gone: crossterm would read its end for ever.
fn wait_for_terminal(wait_max: Duration) -> std::io::Result<()> {
    let input = std::io::stdin();
    let mut polled = [PollFd::new(&input, PollFlags::IN)];
    let wait = Timespec::try_from(wait_max).ok();
    match poll(&mut polled, wait.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    if polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the terminal is gone"));
    }
    Ok(())
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Nothing can be done about a terminal that has gone away.
fn give_back() {
    let _ = execute!(stdout(), DisableMouseCapture, LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}
