//! How many descriptors a process with a gateway may have open, and how many connections fit into that.
//!
//! Most systems begin a process with 1,024 of them, which is less than the connections that a gateway takes; whoever has
//! used them up can neither be connected to nor write anything down. *Must never* be asked for before a bottle was made:
//! the programs in it begin with what the machine gives everybody.

use carboy_egress::GatewayLimits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything but connections: files, sockets of clients, the pipes of programs.
const OWN_MAX: usize = 256;
/// The bottle's side and the upstream's.
const PER_CONNECTION: usize = 2;
/// Connections that are taken however few descriptors there are.
const CONNECTIONS_MIN: usize = 16;

/// The limits of a gateway in this process.
pub(crate) fn gateway_limits() -> GatewayLimits {
    let limits = GatewayLimits::default();
    let have = raised(OWN_MAX + PER_CONNECTION * limits.connections_max);
    fitting(limits, have)
}

/// As many connections as there are descriptors for.
fn fitting(limits: GatewayLimits, have: usize) -> GatewayLimits {
    let room = have.saturating_sub(OWN_MAX) / PER_CONNECTION;
    GatewayLimits { connections_max: limits.connections_max.min(room.max(CONNECTIONS_MIN)), ..limits }
}

/// Asks for so many descriptors; what there are then.
fn raised(wanted: usize) -> usize {
    let now = getrlimit(Resource::Nofile);
    let number = |limit: Option<u64>| limit.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let (soft, asked) = (number(now.current), wanted.min(number(now.maximum)));
    if soft >= asked {
        return soft;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(asked as u64), maximum: now.maximum }) {
        Ok(()) => asked,
        Err(_) => soft,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_into_the_descriptors_that_there_are() {
        let connections = |have| fitting(GatewayLimits::default(), have).connections_max;
        assert_eq!(connections(usize::MAX), GatewayLimits::default().connections_max);
        assert_eq!(connections(1024), 384);
        assert_eq!(connections(300), 22);
        assert_eq!(connections(0), CONNECTIONS_MIN);
    }
}
