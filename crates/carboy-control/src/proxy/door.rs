//! The listener of a proxy: one place, open or closed, and nobody else's for as long as the run lives.
//!
//! ```text
//! bind ─► open ─► accepted by the gateway          cut by a person, storm ─► closed: connecting fails   resume ─► open
//!                                                  stop, kill, the end ────► closed for good, the socket's file is gone
//! ```
//!
//! What a budget has cut off is answered in words, as in a bottle; its listener stays. While it is closed the port stays bound
//! and not listening: whoever took it meanwhile would be sent the password by every client that still has it.
//!
//! *Must never* listen on an address that other machines reach, or on a socket that other users may open.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use carboy_core::budget::Shutdown;
use carboy_core::secret::SecretText;
use carboy_egress::Gateway;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{Place, ProxyError};
use crate::home::SOCKET_PATH_BYTES_MAX;
use crate::standing::Hangs;
use crate::summary::By;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Tries to have the port that the system chose a moment ago for one's own.
const PORT_TRIES_MAX: usize = 8;

/// Where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// On loopback.
    Loopback(SocketAddr),
    /// On a Unix socket.
    Socket(PathBuf),
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            At::Loopback(address) => write!(f, "{address}"),
            At::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What is held of the place.
enum Held {
    /// Bound for as long as the run lives; the password that is asked for.
    Loopback { socket: OwnedFd, address: SocketAddr, password: Arc<SecretText> },
    /// Bound whenever it is open; device and number of its file then.
    Socket { path: PathBuf, file: Option<(u64, u64)>, listening: Option<OwnedFd> },
}

/// From opening to closing.
struct Accepting {
    task: JoinHandle<()>,
    /// Its listener ends because it is to: a task that is in the middle of accepting sees that before it hears of its abort.
    closed: Arc<AtomicBool>,
}

impl Accepting {
    /// `serving` ends by itself only when its listener does.
    fn start(deaf: Arc<Notify>, serving: impl Future<Output = ()> + Send + 'static) -> Accepting {
        let closed = Arc::<AtomicBool>::default();
        let meant = closed.clone();
        let task = tokio::spawn(async move {
            serving.await;
            if !meant.load(Ordering::Acquire) {
                deaf.notify_one();
            }
        });
        Accepting { task, closed }
    }

    /// Before its listener is closed.
    fn end(self) {
        self.closed.store(true, Ordering::Release);
        self.task.abort();
    }
}

struct State {
    held: Held,
    accepting: Option<Accepting>,
    /// For good.
    over: bool,
}

/// See the module.
pub(super) struct Door {
    gateway: Arc<Gateway>,
    state: Mutex<State>,
    deaf: Arc<Notify>,
}

impl Door {
    /// Takes the place; nobody is accepted yet.
    pub(super) fn bind(
        place: &Place,
        gateway: Arc<Gateway>,
        password: Option<Arc<SecretText>>,
    ) -> Result<Door, ProxyError> {
        let held = match (place, password) {
            (Place::Loopback { port }, Some(password)) => {
                let failed = |source: io::Error| ProxyError::Port { port: port.unwrap_or(0), source };
                let (socket, address) = bound(*port).map_err(failed)?;
                Held::Loopback { socket, address, password }
            }
            (Place::Loopback { port }, None) => {
                let source = io::Error::other("there is no password for it");
                return Err(ProxyError::Port { port: port.unwrap_or(0), source });
            }
            (Place::Socket { path }, _) => {
                check_path(path)?;
                Held::Socket { path: path.clone(), file: None, listening: None }
            }
        };
        let state = Mutex::new(State { held, accepting: None, over: false });
        Ok(Door { gateway, state, deaf: Arc::default() })
    }

    /// Where it is.
    pub(super) fn at(&self) -> At {
        match &self.state().held {
            Held::Loopback { address, .. } => At::Loopback(*address),
            Held::Socket { path, .. } => At::Socket(path.clone()),
        }
    }

    /// Accepts from now on. Within the runtime.
    pub(super) fn open(&self) -> Result<(), ProxyError> {
        let mut state = self.state();
        if state.over || state.accepting.is_some() {
            return Ok(());
        }
        let (gateway, deaf) = (self.gateway.clone(), self.deaf.clone());
        let accepting = match &mut state.held {
            Held::Loopback { socket, address, password } => {
                let failed = |source: io::Error| ProxyError::Port { port: address.port(), source };
                rustix::net::listen(&*socket, BACKLOG).map_err(|e| failed(e.into()))?;
                let listener = TcpListener::from_std(socket.try_clone().map_err(failed)?.into()).map_err(failed)?;
                let password = password.clone();
                Accepting::start(deaf, async move { gateway.serve_proxy_tcp(listener, password).await })
            }
            Held::Socket { path, file, listening } => {
                let failed = |source: io::Error| ProxyError::Socket { path: path.clone(), why: source.to_string() };
                clear_stale(path)?;
                let socket = bound_unix(path).map_err(failed)?;
                let there = fs::symlink_metadata(&*path).map_err(failed)?;
                *file = Some((there.dev(), there.ino()));
                let listener = UnixListener::from_std(socket.try_clone().map_err(failed)?.into()).map_err(failed)?;
                *listening = Some(socket);
                Accepting::start(deaf, async move { gateway.serve_proxy_unix(listener).await })
            }
        };
        state.accepting = Some(accepting);
        Ok(())
    }

    /// Accepts nobody any more, at once; it may be opened again.
    pub(super) fn close(&self) {
        let mut state = self.state();
        let Some(accepting) = state.accepting.take() else { return };
        accepting.end();
        match &mut state.held {
            Held::Loopback { socket, .. } => {
                // No longer listening, and still bound (tcp(7), disconnect); what waited to be accepted is reset.
                let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Read);
            }
            Held::Socket { path, file, listening } => {
                if let Some(socket) = listening.take() {
                    // Connecting fails from here on, also for those who have the path open.
                    let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Read);
                }
                if let Some(ours) = file.take() {
                    remove_own(path, ours);
                }
            }
        }
    }

    /// Accepts nobody any more, for good.
    pub(super) fn close_for_good(&self) {
        self.state().over = true;
        self.close();
    }

    /// Becomes ready when the listener has ended by itself.
    pub(super) async fn deaf(&self) {
        self.deaf.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close_for_good();
    }
}

impl Hangs for Door {
    fn what(&self) -> &'static str {
        "a proxy"
    }

    fn tier(&self) -> &'static str {
        "proxy"
    }

    fn no_exec(&self) -> &'static str {
        "`carboy proxy --bottle NAME -- COMMAND` runs a command beside one"
    }

    /// Every route is closed already. A person's word, and a storm, close the listener too; what a budget stops is told why.
    fn stop(&self, how: Shutdown, by: By) {
        match (how, by) {
            (Shutdown::Kill, _) => self.close_for_good(),
            (Shutdown::Cutoff | Shutdown::Pause | Shutdown::Freeze, By::Budget) => {}
            (Shutdown::Cutoff | Shutdown::Pause | Shutdown::Freeze, By::Operator | By::Storm) => self.close(),
        }
    }

    fn reopen(&self) -> Result<(), String> {
        self.open().map_err(|e| e.to_string())
    }

    fn let_go(&self) {}

    /// What is under way gets its grace; nothing new is taken.
    fn ending(&self) {
        self.close_for_good();
        self.gateway.shutdown();
    }
}

/// A port of loopback, this process's own. Without `SO_REUSEADDR`: with it another user's process could bind the same one
/// while it is not listened on.
fn bound(port: Option<u16>) -> io::Result<(OwnedFd, SocketAddr)> {
    let Some(port) = port.filter(|port| *port != 0) else { return any_port() };
    match bind_to(port, Reuse::No) {
        // An earlier run's connections linger for a minute (TIME_WAIT); a port that somebody listens on stays refused.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => bind_to(port, Reuse::Yes),
        bound => bound,
    }
}

/// A port that the system chooses is given back when its listener closes (`SOCK_BINDPORT_LOCK`), unless it was asked for by
/// its number.
fn any_port() -> io::Result<(OwnedFd, SocketAddr)> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PORT_TRIES_MAX {
        let (chosen, address) = bind_to(0, Reuse::No)?;
        drop(chosen);
        match bind_to(address.port(), Reuse::No) {
            Ok(own) => return Ok(own),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Yes,
    No,
}

fn bind_to(port: u16, reuse: Reuse) -> io::Result<(OwnedFd, SocketAddr)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    if reuse == Reuse::Yes {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    let address = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((socket, address))
}

/// A socket whose file is 0600 from its first moment: its mode is taken from the socket's own (unix(7), Linux).
fn bound_unix(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Fits, and nobody else could put another socket in its place.
fn check_path(path: &Path) -> Result<(), ProxyError> {
    let no = |why: String| ProxyError::Socket { path: path.to_owned(), why };
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(ProxyError::SocketPath { path: path.to_owned() });
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    let there = fs::metadata(dir).map_err(|e| no(format!("{}: {e}", dir.display())))?;
    let own = rustix::process::getuid().as_raw();
    let foreign = there.uid() != own && there.uid() != 0;
    // In a directory like /tmp only a file's owner removes it.
    let open_to_all = there.mode() & 0o022 != 0 && there.mode() & 0o1000 == 0;
    if foreign || open_to_all {
        return Err(no(format!("others may write in {}; choose a directory of your own", dir.display())));
    }
    Ok(())
}

/// What a proxy that was killed has left there. Anything else stays, and is an error.
fn clear_stale(path: &Path) -> Result<(), ProxyError> {
    let no = |why: &str| ProxyError::Socket { path: path.to_owned(), why: why.to_owned() };
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(no(&error.to_string())),
    };
    let own = rustix::process::getuid().as_raw();
    if !there.file_type().is_socket() || there.uid() != own {
        return Err(no("something else is there; remove it, or choose another path"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|e| no(&e.to_string()))
        }
        Ok(_) | Err(_) => Err(no("somebody listens there; `carboy ps` lists proxies that live")),
    }
}

/// Another one's socket that was put there meanwhile is not ours to remove.
fn remove_own(path: &Path, ours: (u64, u64)) {
    if fs::symlink_metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == ours) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_closed_port_refuses_connections_and_is_still_nobody_elses_and_can_be_opened_again() {
        let (socket, address) = bound(None).unwrap();
        assert!(address.ip().is_loopback());
        let refused = |what: &str| assert!(TcpStream::connect(address).is_err(), "{what}");
        refused("not listening yet");
        rustix::net::listen(&socket, BACKLOG).unwrap();
        let _first = TcpStream::connect(address).unwrap();
        rustix::net::shutdown(&socket, rustix::net::Shutdown::Read).unwrap();
        refused("closed");
        // std asks for SO_REUSEADDR: the port is taken all the same.
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        rustix::net::listen(&socket, BACKLOG).unwrap();
        TcpStream::connect(address).unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_listener_that_was_closed_in_the_middle_of_accepting_is_not_deaf_and_one_that_ended_by_itself_is() {
        let deaf = Arc::<Notify>::default();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (closed, is_closed) = std::sync::mpsc::channel();
        // In the middle of a poll: an abort comes too late for it.
        let accepting = Accepting::start(deaf.clone(), async move {
            begun.send(()).unwrap();
            is_closed.recv().unwrap();
        });
        has_begun.recv().unwrap();
        let task = accepting.task.abort_handle();
        accepting.end();
        closed.send(()).unwrap();
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
        let mut heard = std::pin::pin!(deaf.notified());
        assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(heard.as_mut().poll(cx).is_pending())).await);
        let _by_itself = Accepting::start(deaf.clone(), async {});
        heard.await;
    }

    #[test]
    fn a_socket_is_its_users_alone_from_its_first_moment_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _socket = bound_unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Somebody listens.
        assert!(matches!(clear_stale(&path), Err(ProxyError::Socket { .. })));
        drop(_socket);
        clear_stale(&path).unwrap();
        assert!(!path.exists());
        // A file of the person's is not removed.
        fs::write(&path, "mine").unwrap();
        assert!(clear_stale(&path).is_err() && path.exists());
    }

    #[test]
    fn a_directory_where_others_may_write_has_no_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for (mode, fits) in [(0o700, true), (0o755, true), (0o1777, true), (0o777, false), (0o770, false)] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(check_path(&path).is_ok(), fits, "{mode:o}");
        }
        let long = Path::new("/tmp").join("x".repeat(SOCKET_PATH_BYTES_MAX));
        assert!(matches!(check_path(&long), Err(ProxyError::SocketPath { .. })));
    }
}
