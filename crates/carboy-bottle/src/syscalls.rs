//! The system call filter: what a process in a bottle may not ask of the kernel.
//!
//! A deny list by purpose, in four programs because each answers with an errno of its own, and a hand-made one for
//! what the filter compiler cannot say: the x32 numbers (killed) and every call newer than this list (`ENOSYS`), so
//! that a new kernel does not open a door that nobody looked at. The compiler itself kills foreign architectures.
//!
//! `ENOSYS` goes where programs have a second way (`clone3` → `clone`, io_uring → epoll): flags behind a pointer cannot
//! be seen by a filter, and letting a supervisor look at them would be a race (B49).

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Op, SeccompCondition as Condition,
    SeccompFilter, SeccompRule as Rule, TargetArch, sock_filter,
};

type Rules = BTreeMap<i64, Vec<Rule>>;
type Built<T> = Result<T, seccompiler::BackendError>;

/// The newest call this list knows (`mseal`).
const NEWEST_KNOWN: u32 = 462;

/// Refused with `EPERM`, whatever the arguments.
const REFUSED: &[i64] = &[
    // Namespaces and mounts (B46).
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Other processes' memory and descriptors (B48).
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_process_madvise,
    // The kernel's own programmability, and wide attack surface.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // The host's state.
    libc::SYS_acct,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] =
    &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_uselib, libc::SYS__sysctl];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// Answered as if the kernel did not have them.
const ABSENT: &[i64] = &[
    libc::SYS_clone3,
    libc::SYS_openat2,
    libc::SYS_fchmodat2,
    // Sockets can be made past the family filter through a ring (B45).
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Programs to install, in order.
pub fn programs() -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let errno = |number: i32| SeccompAction::Errno(number as u32);
    Ok(vec![
        compile(refused()?, errno(libc::EPERM))?,
        compile(plain(ABSENT), errno(libc::ENOSYS))?,
        compile(families()?, errno(libc::EAFNOSUPPORT))?,
        compile(core_limit()?, errno(0))?,
        by_number(),
    ])
}

fn compile(rules: Rules, action: SeccompAction) -> Built<BpfProgram> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?.try_into()
}

fn plain(calls: &[i64]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

/// `argument & mask == mask`, on the 32 bits that the kernel looks at.
fn has(argument: u8, mask: u64) -> Built<Condition> {
    Condition::new(argument, Width::Dword, Op::MaskedEq(mask), mask)
}

fn is(argument: u8, value: u64) -> Built<Condition> {
    Condition::new(argument, Width::Dword, Op::Eq, value)
}

fn is_not(argument: u8, value: u64) -> Built<Condition> {
    Condition::new(argument, Width::Dword, Op::Ne, value)
}

fn refused() -> Built<Rules> {
    let mut rules = plain(REFUSED);
    rules.extend(plain(REFUSED_HERE));
    rules.insert(libc::SYS_clone, new_namespaces()?);
    rules.insert(libc::SYS_ioctl, terminal_tricks()?);
    // Only the ordinary personality, and asking for it.
    let personality = vec![is_not(0, 0)?, is_not(0, 0xffff_ffff)?];
    rules.insert(libc::SYS_personality, vec![Rule::new(personality)?]);
    set_id_bits(&mut rules)?;
    Ok(rules)
}

fn new_namespaces() -> Built<Vec<Rule>> {
    let flags = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    flags.iter().map(|flag| Rule::new(vec![has(0, *flag as u32 as u64)?])).collect()
}

/// Typing into the terminal of whoever started the bottle, and line disciplines.
fn terminal_tricks() -> Built<Vec<Rule>> {
    const TIOCSTI: u64 = 0x5412;
    const TIOCLINUX: u64 = 0x541c;
    const TIOCSETD: u64 = 0x5423;
    [TIOCSTI, TIOCLINUX, TIOCSETD].iter().map(|request| Rule::new(vec![is(1, *request)?])).collect()
}

/// A bottle run by root writes the workspace as its owner; a set-uid program left there would be root's own.
fn set_id_bits(rules: &mut Rules) -> Built<()> {
    const BITS: [u64; 2] = [libc::S_ISUID as u64, libc::S_ISGID as u64];
    // (call, argument that is the mode, argument that holds open flags)
    let mut calls = vec![
        (libc::SYS_fchmod, 1, None),
        (libc::SYS_fchmodat, 2, None),
        (libc::SYS_mknodat, 2, None),
        (libc::SYS_openat, 3, Some(2)),
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([
        (libc::SYS_chmod, 1, None),
        (libc::SYS_creat, 1, None),
        (libc::SYS_mknod, 1, None),
        (libc::SYS_open, 2, Some(1)),
    ]);
    for (call, mode, flags) in calls {
        let mut list = Vec::new();
        for bit in BITS {
            match flags {
                None => list.push(Rule::new(vec![has(mode, bit)?])?),
                // Without these flags the mode register holds anything.
                Some(flags) => {
                    const TMPFILE: u64 = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u64;
                    for making in [libc::O_CREAT as u64, TMPFILE] {
                        list.push(Rule::new(vec![has(flags, making)?, has(mode, bit)?])?);
                    }
                }
            }
        }
        rules.insert(call, list);
    }
    Ok(())
}

/// The limit on core dumps is 1, the one value with which the kernel does not start the host's crash handler either (a
/// root process that would read what a hostile one made): core(5). A program may lower a limit, and many set this one
/// to 0; they are told that they did.
fn core_limit() -> Built<Rules> {
    const CORE: u64 = libc::RLIMIT_CORE as u64;
    let sets = Condition::new(2, Width::Qword, Op::Ne, 0)?;
    let mut rules: Rules = [(libc::SYS_prlimit64, vec![Rule::new(vec![is(1, CORE)?, sets])?])].into_iter().collect();
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_setrlimit, vec![Rule::new(vec![is(0, CORE)?])?]);
    Ok(rules)
}

/// Unix, IPv4, IPv6, and netlink for routes alone (Node and Python ask it for interfaces).
fn families() -> Built<Rules> {
    const NETLINK: u64 = libc::AF_NETLINK as u64;
    let mut others = Vec::new();
    for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK] {
        others.push(is_not(0, family as u64)?);
    }
    let other_netlink = vec![is(0, NETLINK)?, is_not(2, libc::NETLINK_ROUTE as u64)?];
    let socket = vec![Rule::new(others)?, Rule::new(other_netlink)?];
    let pair = vec![Rule::new(vec![is_not(0, libc::AF_UNIX as u64)?])?];
    Ok([(libc::SYS_socket, socket), (libc::SYS_socketpair, pair)].into_iter().collect())
}

/// Kills x32 calls (their own numbers under the same architecture) and answers `ENOSYS` to unknown ones.
fn by_number() -> BpfProgram {
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const JUMP_IF_GREATER: u16 = 0x25;
    const RETURN: u16 = 0x06;
    const X32_BIT: u32 = 0x4000_0000;
    let line = |code, k, jt, jf| sock_filter { code, jt, jf, k };
    vec![
        line(LOAD_NUMBER, 0, 0, 0),
        line(JUMP_IF_AT_LEAST, X32_BIT, 2, 0),
        line(JUMP_IF_GREATER, NEWEST_KNOWN, 2, 0),
        line(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
        line(RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
        line(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_fits_the_kernels_limit() {
        for program in programs().unwrap() {
            assert!(program.len() < 4096, "{} instructions", program.len());
        }
    }
}
