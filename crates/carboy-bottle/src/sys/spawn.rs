//! The clone of a bottle's first process, and of the short-lived holders of id maps.
//!
//! The child of a process with threads may make system calls and nothing else until it execs: no allocation, no
//! lock, no libc wrapper that broadcasts to threads. Everything it needs is prepared before.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What the child execs and keeps open.
pub struct InitImage {
    /// The program (the carboy binary itself).
    pub exe: OwnedFd,
    /// `argv`; no environment is given.
    pub arguments: Vec<CString>,
    /// Descriptors that stay open across the exec, besides 0 to 2, which become `/dev/null`.
    pub keep: Vec<RawFd>,
    /// `/dev/null`, open for reading and writing.
    pub null: OwnedFd,
    /// The uid and gid inside.
    pub inside: (u32, u32),
    /// Control groups that the child enters by writing `0` to each.
    pub doors: Vec<OwnedFd>,
    /// The control group that the child is born in, and everything that it starts with it.
    pub birthplace: Option<OwnedFd>,
    /// Drop supplementary groups (possible for root alone; an ordinary user's `setgroups` is denied).
    pub groups: Groups,
    /// The child waits for a byte here: its id maps are written by then.
    pub gate: OwnedFd,
    /// The gate's other end, which stays with the parent. The child closes its copy, or the gate would never end.
    pub opener: RawFd,
    /// The child's complaint: one byte for the step, four for errno.
    pub complaint: OwnedFd,
    /// What init has to be able to do before it gives everything up.
    pub set_up: SetUp,
}

/// See [`InitImage::set_up`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetUp {
    /// Mounts and network.
    Plain,
    /// Overlays as well. The kernel works on a layer with the rights of whoever mounted it, within the bottle's user
    /// namespace: it has to write to a work directory that nobody may enter, and to set modes and owners there.
    Overlay,
}

impl SetUp {
    fn capabilities(self) -> &'static [u32] {
        match self {
            SetUp::Plain => &SETUP_CAPABILITIES,
            SetUp::Overlay => &OVERLAY_CAPABILITIES,
        }
    }
}

/// Supplementary groups of the child.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    /// Emptied.
    Drop,
    /// As inherited, because the kernel lets an ordinary user do nothing else.
    Inherited,
}

/// The steps between clone and exec, as they are named in an error.
pub const STEPS: [&str; 10] = [
    "set the parent-death signal",
    "wait for the id maps",
    "drop supplementary groups",
    "set the group id",
    "set the user id",
    "keep the set-up capabilities",
    "close inherited descriptors",
    "keep the control descriptors",
    "start the bottle's init (the carboy binary must be executable by every user: chmod 755)",
    "enter the bottle's cgroup",
];

/// A process just cloned.
pub struct Cloned {
    /// Its process id, here.
    pub pid: rustix::process::Pid,
    /// A descriptor for it.
    pub pidfd: OwnedFd,
}

const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// Capabilities that init keeps until the bottle stands: mounts, network, dropping the bounding set.
const SETUP_CAPABILITIES: [u32; 3] = [8 /* SETPCAP */, 12 /* NET_ADMIN */, 21 /* SYS_ADMIN */];
/// The same with CHOWN, DAC_OVERRIDE and FOWNER.
const OVERLAY_CAPABILITIES: [u32; 6] = [0, 1, 3, 8, 12, 21];

/// Clones into new namespaces of every kind and execs the image there.
pub fn clone_init(image: &InitImage) -> io::Result<Cloned> {
    let pointers: Vec<*const libc::c_char> =
        image.arguments.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
    let empty: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: the child calls `run_child` alone, which makes system calls only and never returns.
    unsafe {
        match clone3(NAMESPACES, image.birthplace.as_ref())? {
            Some(cloned) => Ok(cloned),
            None => run_child(image, &pointers, &empty),
        }
    }
}

/// Clones a process into a new user namespace that does nothing but wait to be killed: its namespace carries an id map.
pub fn clone_idmap_holder() -> io::Result<Cloned> {
    // SAFETY: the child makes system calls only and never returns.
    unsafe {
        match clone3(libc::CLONE_NEWUSER, None)? {
            Some(cloned) => Ok(cloned),
            None => {
                libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                loop {
                    libc::syscall(libc::SYS_ppoll, 0_usize, 0, 0_usize, 0_usize, 0);
                }
            }
        }
    }
}

/// `clone3(2)` without a new stack, as fork does it; `None` in the child.
unsafe fn clone3(namespaces: i32, birthplace: Option<&OwnedFd>) -> io::Result<Option<Cloned>> {
    // clone3(2); the directory of a v2 group.
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid `clone_args`.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (namespaces | libc::CLONE_PIDFD) as u32 as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(directory) = birthplace {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = directory.as_raw_fd() as u64;
    }
    // SAFETY: `args` and `pidfd` live across the call; without CLONE_VM the child has memory of its own.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => {
            let pid =
                rustix::process::Pid::from_raw(pid as i32).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
            // SAFETY: the kernel has just put a fresh descriptor there.
            Ok(Some(Cloned { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }))
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// The child between clone and exec. System calls only.
unsafe fn run_child(image: &InitImage, argv: &[*const libc::c_char], envp: &[*const libc::c_char]) -> ! {
    let complaint = image.complaint.as_raw_fd();
    // SAFETY: see the module's rule; every argument was prepared before the clone.
    unsafe {
        let Err(step) = child_steps(image, argv, envp);
        let errno = (*libc::__errno_location()).to_ne_bytes();
        let report = [step, errno[0], errno[1], errno[2], errno[3]];
        libc::syscall(libc::SYS_write, complaint, report.as_ptr(), report.len());
        loop {
            libc::syscall(libc::SYS_exit_group, 127);
        }
    }
}

/// Gives the index in [`STEPS`] of the one that failed; errno tells why.
unsafe fn child_steps(
    image: &InitImage,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
) -> Result<std::convert::Infallible, u8> {
    let done = |step: u8, result: libc::c_long| if result < 0 { Err(step) } else { Ok(()) };
    // SAFETY: see the module's rule. Raw `setresuid` and friends because glibc's wrappers signal other threads.
    unsafe {
        // A supervisor that cannot be dumped (it holds secrets) makes the child's id map files root's; the child is
        // made dumpable for the moment until its exec, in which it stands in a user namespace of its own.
        libc::syscall(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0);
        // A parent that dies before the gate opens takes the child with it: by the signal, or, when it was quicker than
        // the signal could be set, by the end of the gate.
        done(0, libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
        libc::syscall(libc::SYS_close, image.opener);
        let mut byte = 0_u8;
        let read = libc::syscall(libc::SYS_read, image.gate.as_raw_fd(), &raw mut byte, 1);
        if read != 1 {
            return Err(1);
        }
        for door in &image.doors {
            done(9, libc::syscall(libc::SYS_write, door.as_raw_fd(), c"0".as_ptr(), 1))?;
        }
        if image.groups == Groups::Drop {
            done(2, libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()))?;
        }
        let (uid, gid) = image.inside;
        done(3, libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        done(5, keep_capabilities_over_setuid())?;
        done(4, libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        done(5, raise_ambient(image.set_up.capabilities()))?;
        // After the change of ids, which clears it.
        done(0, libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
        for stream in 0..3 {
            done(6, libc::syscall(libc::SYS_dup3, image.null.as_raw_fd(), stream, 0))?;
        }
        done(6, libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC))?;
        for fd in &image.keep {
            done(7, libc::syscall(libc::SYS_fcntl, *fd, libc::F_SETFD, 0))?;
        }
        libc::syscall(
            libc::SYS_execveat,
            image.exe.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        Err(8)
    }
}

/// A change from the namespace's root to another id would drop the capabilities; ours keeps them.
unsafe fn keep_capabilities_over_setuid() -> libc::c_long {
    // SAFETY: numbers alone.
    unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) }
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Puts the set-up capabilities, and no other, into every set that survives the exec.
unsafe fn raise_ambient(capabilities: &[u32]) -> libc::c_long {
    let header = CapabilityHeader { version: 0x2008_0522, pid: 0 };
    let mut low = 0_u32;
    for capability in capabilities {
        low |= 1 << capability;
    }
    let data = [
        CapabilityData { effective: low, permitted: low, inheritable: low },
        CapabilityData { effective: 0, permitted: 0, inheritable: 0 },
    ];
    // SAFETY: header and data are what capset version 3 reads and live across the call; `prctl` takes numbers.
    unsafe {
        let set = libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr());
        if set < 0 {
            return set;
        }
        for &capability in capabilities {
            let raised =
                libc::syscall(libc::SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0);
            if raised < 0 {
                return raised;
            }
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_child_whose_parent_ends_before_the_gate_opens_is_gone() {
        let file = |path: &str| OwnedFd::from(std::fs::File::open(path).unwrap());
        let (gate, opener) = rustix::pipe::pipe().unwrap();
        let (_complaints, complaint) = rustix::pipe::pipe().unwrap();
        let image = InitImage {
            exe: file("/proc/self/exe"),
            arguments: vec![c"x".to_owned()],
            keep: vec![],
            null: file("/dev/null"),
            inside: (1000, 1000),
            doors: Vec::new(),
            birthplace: None,
            groups: Groups::Inherited,
            gate,
            opener: opener.as_raw_fd(),
            complaint,
            set_up: SetUp::Plain,
        };
        let cloned = clone_init(&image).unwrap();
        // What the kernel does when the parent ends, the signal apart: that may come too early for the child.
        drop(opener);
        let mut watched = [rustix::event::PollFd::new(&cloned.pidfd, rustix::event::PollFlags::IN)];
        let limit = Duration::from_secs(10).try_into().unwrap();
        let gone = rustix::event::poll(&mut watched, Some(&limit)).unwrap();
        let _ = rustix::process::pidfd_send_signal(&cloned.pidfd, rustix::process::Signal::KILL);
        assert_eq!(gone, 1);
    }
}
