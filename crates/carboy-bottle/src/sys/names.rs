//! How a statically linked carboy looks names up.
//!
//! A static glibc answers from `/etc/hosts` and the name servers of `/etc/resolv.conf` by itself, and loads a shared
//! object of the host for every other word in `/etc/nsswitch.conf`, and with it the host's own C library of whatever
//! version. Two C libraries in the process that holds the secrets are a crash at best, so those words are not followed.
//!
//! *Must never* load a library of the host into the process that holds secrets.

/// Names come from `/etc/hosts` and DNS, and from nothing that would have to be loaded. Call it first thing in main,
/// before another thread looks a name up. Does nothing in a program that is linked dynamically: there the host's
/// `nsswitch.conf` is followed as everywhere.
pub fn load_no_name_service() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    {
        unsafe extern "C" {
            // <nss.h>, since glibc 2.0: replaces one database's line of nsswitch.conf for this process.
            fn __nss_configure_lookup(database: *const libc::c_char, services: *const libc::c_char) -> libc::c_int;
        }
        // SAFETY: both arguments are constant texts that end in a zero byte and live for ever; glibc copies what it
        // needs. It fails for an unknown database or without memory, which leaves the host's own line in force.
        let _ = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    }
}
