//! One attached client: a thread that writes to it, and one that hears it.
//!
//! *Must never* let a client that only looks on type, or hold the program up for one that has left.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::frames::{self, INPUT_BYTES_MAX, Kind};
use super::{Look, Session};

/// While the program takes no input: how often it is seen that its client has gone.
const INPUT_LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// How long a client that was told the end may take to close its side.
const FAREWELL_WAIT_MAX: Duration = Duration::from_secs(2);

/// Starts both threads.
pub fn serve(session: &Arc<Session>, id: u64, stream: Arc<UnixStream>) -> io::Result<()> {
    let (hears, writes) = (stream.clone(), stream);
    let (hearing, writing) = (session.clone(), session.clone());
    std::thread::Builder::new().name("client out".into()).spawn(move || {
        // Gone, or told the end: in both cases nothing more is to be said.
        let _ = write(&writing, id, &writes);
        let _ = writes.shutdown(Shutdown::Write);
        let _ = writes.set_read_timeout(Some(FAREWELL_WAIT_MAX));
        writing.remove(id);
    })?;
    std::thread::Builder::new().name("client in".into()).spawn(move || {
        // A client that says nonsense is let go like one that has left.
        let _ = hear(&hearing, id, &hears);
        let _ = hears.shutdown(Shutdown::Both);
        hearing.remove(id);
    })?;
    Ok(())
}

fn write(session: &Session, id: u64, mut stream: &UnixStream) -> io::Result<()> {
    loop {
        let mut inner = session.lock();
        let (kind, piece) = loop {
            let Some(client) = inner.clients.iter_mut().find(|client| client.id == id) else { return Ok(()) };
            if let Some(next) = client.queue.front().cloned() {
                break next;
            }
            inner = session.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        };
        drop(inner);
        stream.write_all(&frames::bytes(kind, &piece))?;
        let mut inner = session.lock();
        if let Some(client) = inner.clients.iter_mut().find(|client| client.id == id) {
            client.queue.pop_front();
            client.queued_bytes -= piece.len();
            client.progressed = Instant::now();
        }
        session.changed.notify_all();
        if kind == Kind::End {
            return Ok(());
        }
    }
}

fn hear(session: &Arc<Session>, id: u64, stream: &UnixStream) -> io::Result<()> {
    let look = session.lock().clients.iter().find(|client| client.id == id).map(|client| client.look);
    while let Some((kind, payload)) = frames::read(stream, INPUT_BYTES_MAX)? {
        // One who only looks on, or only waits, has nothing to say.
        let Some(Look::Terminal { .. }) = look else { continue };
        match kind {
            Kind::Input => {
                if let Some(terminal) = &session.input {
                    type_in(terminal, &payload, stream)?;
                }
            }
            Kind::Resize => {
                if let Some((rows, cols)) = frames::size(&payload) {
                    session.resize(rows, cols);
                }
            }
            Kind::Signal => {
                if let [signal] = payload[..] {
                    (session.signal)(i32::from(signal));
                }
            }
            Kind::Output | Kind::Error | Kind::Tell | Kind::End | Kind::Eof => {}
        }
    }
    Ok(())
}

/// Writes to the program's terminal. One that takes nothing holds up the client that types, until that one leaves.
fn type_in(terminal: &OwnedFd, mut bytes: &[u8], client: &UnixStream) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(terminal, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut ready = [PollFd::new(terminal, PollFlags::OUT), PollFd::new(client, PollFlags::empty())];
                match poll(&mut ready, Some(&INPUT_LOOK_EVERY)) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
                if ready[1].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            // The program is gone, and its terminal with it.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}
