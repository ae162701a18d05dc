//! Giving everything up: Landlock, capabilities, no_new_privs, seccomp; in this order, before the program exists.
//!
//! The file system and the network already hold nothing that is not the bottle's; this layer takes away the kernel
//! interfaces by which a process could get something else (B45, B46, B48, B59).

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};
use rustix::thread::{CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities, set_no_new_privs};

use super::{SetupError, step};
use crate::sys::process;
use crate::wire::InitSpec;

use crate::syscalls::programs as seccomp_programs;

/// Drops everything; gives the Landlock ABI in force (0 for none).
pub fn drop_everything(spec: &InitSpec) -> Result<u32, SetupError> {
    step("empty the capability bounding set", process::empty_bounding_set())?;
    step("lock the secure bits", process::lock_securebits())?;
    step("clear the ambient capabilities", clear_ambient_capability_set())?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    step("drop the capabilities", set_capabilities(None, none))?;
    step("set no_new_privs", set_no_new_privs(true))?;
    // Before the filter, which lets nobody change it: see its `core_limit`.
    step("limit core dumps", process::limit(libc::RLIMIT_CORE, 1))?;
    let abi = step("restrict with Landlock", restrict(spec).map_err(io::Error::other))?;
    for program in step("build the system call filter", seccomp_programs().map_err(io::Error::other))? {
        step("install the system call filter", seccompiler::apply_filter(&program).map_err(io::Error::other))?;
    }
    Ok(abi)
}

/// The same picture as the mounts give, once more: read everywhere, write where it is meant.
fn restrict(spec: &InitSpec) -> Result<u32, Box<dyn std::error::Error + Send + Sync>> {
    const HIGHEST: ABI = ABI::V6;
    let all = AccessFs::from_all(HIGHEST);
    let read = AccessFs::from_read(HIGHEST);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(Scope::from_all(HIGHEST))?
        .create()?;
    ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new("/")?, read))?;
    let proc: BitFlags<AccessFs> = read | AccessFs::WriteFile | AccessFs::Truncate;
    let fixed = [("/tmp", all), ("/dev", all), ("/proc", proc)];
    for (path, access) in fixed {
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, access))?;
    }
    for mount in spec.mounts.iter().filter(|mount| mount.writable) {
        let access = if mount.directory { all } else { AccessFs::from_file(HIGHEST) };
        let path: &Path = &mount.target;
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, access))?;
    }
    let status = ruleset.restrict_self()?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi as u32,
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
    })
}
