//! Processes inside: fork, the adoption of inherited descriptors, signals as a descriptor.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Which side of a fork this is.
pub enum Forked {
    /// The new process.
    Child,
    /// The old one, with the new one's process id.
    Parent(rustix::process::Pid),
}

/// `fork(2)` of the bottle's init.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: init is single-threaded (it never starts a thread), so that the child may run ordinary code.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => Ok(Forked::Child),
        pid => rustix::process::Pid::from_raw(pid)
            .filter(|_| pid > 0)
            .map(Forked::Parent)
            .ok_or_else(io::Error::last_os_error),
    }
}

/// Takes over a descriptor that was inherited on purpose; `None` when it is not open.
pub fn adopt(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD on any number is harmless.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open (checked), it was inherited across exec so nothing in this process owns it yet, and the
    // caller adopts each number once.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(owned)
}

/// Marks every descriptor from `first` upward close-on-exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: no memory is involved; descriptors stay open in this process.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes `fd` the standard stream `target` (0, 1 or 2).
pub fn become_stdio(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: numbers 0 to 2 are standard streams, which Rust's owners never close.
    let result = unsafe { libc::dup2(fd.as_raw_fd(), target) };
    if result == target { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `execve(2)`.
pub fn exec(path: &CString, arguments: &[CString], environment: &[CString]) -> io::Result<Infallible> {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays are NULL-terminated lists of NUL-terminated strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// Ends the process at once, without running anything that was registered for its end.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Blocks SIGCHLD and gives a descriptor that is readable when one is pending.
pub fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by `sigemptyset` before use and lives across the calls.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Gives back every signal's default action and an empty mask: a program starts as from a login shell.
pub fn reset_signals() {
    // SAFETY: only dispositions and the mask of this process change; errors (for SIGKILL, SIGSTOP) are of no matter.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Ignores SIGPIPE and the keyboard's signals, for init.
pub fn ignore_stray_signals() {
    // SAFETY: SIG_IGN needs no handler.
    unsafe {
        for signal in [libc::SIGPIPE, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGTERM, libc::SIGTSTP] {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// Sets a resource limit (`RLIMIT_*`), soft and hard, never above the hard limit that already holds.
pub fn limit(resource: u32, value: u64) -> io::Result<()> {
    // SAFETY: both structures live across the calls.
    unsafe {
        let mut now = std::mem::zeroed::<libc::rlimit>();
        let resource = resource as libc::__rlimit_resource_t;
        if libc::getrlimit(resource, &raw mut now) != 0 {
            return Err(io::Error::last_os_error());
        }
        let value = value.min(now.rlim_max);
        let next = libc::rlimit { rlim_cur: value, rlim_max: value };
        if libc::setrlimit(resource, &raw const next) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Sends `signal` by its number to a process (positive) or a process group (negative).
pub fn kill(target: i32, signal: i32) -> io::Result<()> {
    // SAFETY: `kill` takes numbers alone.
    if unsafe { libc::kill(target, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives up the right ever to gain capabilities: bits that root and set-uid changes would have are locked away.
pub fn lock_securebits() -> io::Result<()> {
    const NOROOT: libc::c_ulong = 1 << 0;
    const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    const NO_CAP_AMBIENT_RAISE: libc::c_ulong = 1 << 6;
    let bits = NOROOT | NO_SETUID_FIXUP | NO_CAP_AMBIENT_RAISE;
    // SAFETY: `prctl` with numbers alone. Each lock bit stands next to its bit; bit 5 locks KEEP_CAPS at 0.
    if unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits | (bits << 1) | (1 << 5), 0, 0, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes every capability out of the bounding set; gives how many were there.
pub fn empty_bounding_set() -> io::Result<u32> {
    let mut dropped = 0;
    for capability in 0..64_u64 {
        // SAFETY: `prctl` with numbers alone.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) } {
            1 => {}
            0 => continue,
            _ => break,
        }
        // SAFETY: as above.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        dropped += 1;
    }
    Ok(dropped)
}

/// The kernel's Landlock ABI, 0 for none.
pub fn landlock_abi() -> u32 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call takes no structure.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    u32::try_from(abi).unwrap_or(0)
}
