//! The way to the controller's socket.
//!
//! *Must never* take a full queue for an absent controller: many may come at once.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

/// Longest wait for room in the queue of its socket.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(3);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// Connects. While the socket's queue is full (EAGAIN, unix(7)) it is tried again.
pub(super) async fn dial(socket: &Path) -> io::Result<UnixStream> {
    let until = Instant::now() + ROOM_WAIT_MAX;
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => sleep(PAUSE).await,
            connected => return connected,
        }
    }
}
