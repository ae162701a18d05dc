//! `mount_setattr(2)`, which `rustix` does not have.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What to set on a mount, all at once.
#[derive(Clone, Copy, Default)]
pub struct MountChange<'fd> {
    /// `MOUNT_ATTR_*` bits to set.
    pub set: u64,
    /// Take the mount out of every peer group, so that nothing mounted on it later appears on the host.
    pub private: Private,
    /// User namespace whose id maps translate the owners seen through the mount.
    pub idmap: Option<BorrowedFd<'fd>>,
    /// The mounts below as well?
    pub depth: Depth,
}

/// Is the propagation changed?
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Private {
    /// Made private.
    Yes,
    /// As it is.
    #[default]
    Keep,
}

/// Which mounts a change reaches.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Depth {
    /// This mount alone.
    #[default]
    One,
    /// This mount and all below it.
    All,
}

/// Not writable.
pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
/// Set-uid bits and file capabilities do nothing.
pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
/// Device nodes cannot be opened.
pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
/// Nothing can be executed.
pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Changes the mount that `mount` stands on.
pub fn change(mount: BorrowedFd<'_>, change: &MountChange<'_>) -> io::Result<()> {
    let mut attr = libc::mount_attr {
        attr_set: change.set,
        attr_clr: 0,
        propagation: match change.private {
            Private::Yes => libc::MS_PRIVATE,
            Private::Keep => 0,
        },
        userns_fd: 0,
    };
    if let Some(userns) = change.idmap {
        attr.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns_fd = userns.as_raw_fd() as u64;
    }
    let recursive = match change.depth {
        Depth::One => 0,
        Depth::All => libc::AT_RECURSIVE,
    };
    // SAFETY: the path is a NUL-terminated literal, `attr` lives across the call and its size is given; the kernel
    // only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
