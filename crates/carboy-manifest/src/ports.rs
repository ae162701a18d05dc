//! `publish` and `forward`: single ports that join the host's network and the bottle's.
//!
//! ```yaml
//! publish: [3000, "8080:3000", "127.0.0.1:8080:3000"]          # the host's side first, then the port inside
//! forward: {5432: "127.0.0.1:5432", 6379: /run/redis/redis.sock}  # the port inside: a service of the host
//! ```
//!
//! *Must never* accept a name where an address stands (somebody would have to resolve it, and could be lied to), nor a
//! socket by which a program inside becomes the host's user. The check here is of the text; whoever connects has to
//! resolve symbolic links and ask [`refused_socket`] again with the result.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use carboy_core::plan::{Forward, Publish, Service};

use crate::diagnostic::{Code, Diagnostic, Diagnostics, excerpt};
use crate::host_paths;
use crate::origin::Said;
use crate::schema::Scope;
use crate::yaml::{Entry, Node, Value};

/// Most ports that a bottle publishes, and most that it forwards.
pub const PORTS_MAX: usize = 64;

const PUBLISH_FIX: &str =
    "write PORT, \"HOST_PORT:PORT\" or \"ADDRESS:HOST_PORT:PORT\", with ports from 1 to 65535 and IPv6 in brackets";
const FORWARD_FIX: &str = "write an IP address or the path of a Unix socket, as in \"127.0.0.1:5432\" or \
                           \"/run/redis/redis.sock\"";

/// Docker's API without a login: whoever reaches it is root of the host.
const DOCKER_PORT: u16 = 2375;

/// Directories whose sockets act for the host's user or for its root.
const NEVER_BELOW: &[(&str, &str)] = &[
    ("/run/systemd", "systemd starts programs on the host"),
    ("/run/dbus", "services of the host's bus start programs on the host"),
    ("/run/docker", "whoever speaks to Docker is root of the host"),
    ("/run/containerd", "whoever speaks to containerd is root of the host"),
    ("/run/podman", "whoever speaks to Podman starts programs on the host"),
    ("/run/crio", "whoever speaks to CRI-O is root of the host"),
    ("/run/libvirt", "whoever speaks to libvirt is root of the host"),
    ("/run/user", "the sockets of a login session act as its user"),
    ("/run/screen", "a terminal multiplexer types into the user's shells"),
    ("/var/lib/lxd", "whoever speaks to LXD is root of the host"),
    ("/var/lib/incus", "whoever speaks to Incus is root of the host"),
    ("/var/snap/lxd", "whoever speaks to LXD is root of the host"),
    ("/tmp/.X11-unix", "the X server reads every key and types into every window"),
    ("/proc", "it is no place of a service"),
    ("/dev", "it is no place of a service"),
];

/// Names (of the socket or of a directory above it) by which the same are known in other places.
const NEVER_NAMED: &[(&str, &str)] = &[
    ("docker.sock", "whoever speaks to Docker is root of the host"),
    ("containerd", "whoever speaks to containerd is root of the host"),
    ("podman", "whoever speaks to Podman starts programs on the host"),
    ("buildkit", "whoever speaks to BuildKit starts programs on the host"),
    ("crio.sock", "whoever speaks to CRI-O is root of the host"),
    ("cri-dockerd", "whoever speaks to Docker is root of the host"),
    ("snapd", "snapd changes the host's system"),
    ("libvirt", "whoever speaks to libvirt is root of the host"),
    ("ssh-", "an ssh agent signs with the user's keys"),
    ("S.gpg-agent", "a gpg agent signs with the user's keys"),
    ("keyring", "a keyring hands out the user's secrets"),
    ("gnupg", "a gpg agent signs with the user's keys"),
    ("tmux-", "a terminal multiplexer types into the user's shells"),
    ("wayland-", "a display server shows and controls the user's programs"),
];

/// Why this Unix socket is never given to a bottle; `None` when it may be. `path` is absolute.
pub fn refused_socket(path: &Path, home: &Path, carboy_home: &Path) -> Option<String> {
    // `/var/run` is `/run` on every system that has both.
    let path = path.strip_prefix("/var/run").map_or_else(|_| path.to_path_buf(), |rest| Path::new("/run").join(rest));
    let below = NEVER_BELOW.iter().find(|(never, _)| path.starts_with(never));
    let named = NEVER_NAMED
        .iter()
        .find(|(never, _)| path.components().any(|part| part.as_os_str().to_string_lossy().starts_with(never)));
    if let Some((_, why)) = below.or(named) {
        return Some((*why).to_owned());
    }
    if path.starts_with(carboy_home) {
        return Some(String::from("it is one of carboy's own"));
    }
    host_paths::keeps_credentials(&path, home)
}

/// `publish`: a list of ports.
pub(crate) fn publish(scope: &mut Scope<'_>, node: &Node) -> Vec<Said<Publish>> {
    let mut all: Vec<Said<Publish>> = Vec::new();
    for node in scope.list(node, "`publish`").unwrap_or_default() {
        let Some(one) = publish_of(scope, node) else { continue };
        if let Some(known) = all.iter().find(|known| known.value.listen == one.listen) {
            let message = format!(
                "`publish` of {} listens on {} twice; first on line {}",
                scope.owner, one.listen, known.place.at.line
            );
            scope.error(node.at, Code::BadValue, message, "keep one of the two, or give one another port of the host");
            continue;
        }
        if !one.listen.ip().is_loopback() {
            let message = format!(
                "`publish` of {} listens on {}: other machines reach the program inside",
                scope.owner, one.listen
            );
            let fix = format!("write \"127.0.0.1:{}:{}\" if that was not meant", one.listen.port(), one.inside);
            scope.warn(node.at, Code::ListenWide, message, fix);
        }
        all.push(scope.said(one, node.at));
    }
    all
}

fn publish_of(scope: &mut Scope<'_>, node: &Node) -> Option<Publish> {
    let (given, read) = match &node.value {
        Value::Int(number) => {
            let same = u16::try_from(*number).ok().filter(|port| *port != 0);
            let loopback = |port| Publish { listen: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), inside: port };
            (number.to_string(), same.map(loopback))
        }
        Value::Text(text) => (excerpt(text), publish_text(text)),
        Value::Invalid => return None,
        Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => (String::from("no port"), None),
    };
    if read.is_none() {
        let message = format!("an entry of `publish` of {} is {given}", scope.owner);
        scope.error(node.at, Code::BadValue, message, PUBLISH_FIX);
    }
    read
}

/// `PORT`, `HOST_PORT:PORT`, `ADDRESS:HOST_PORT:PORT`.
fn publish_text(text: &str) -> Option<Publish> {
    let Some((listen, inside)) = text.rsplit_once(':') else {
        let port = port(text)?;
        return Some(Publish { listen: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), inside: port });
    };
    let inside = port(inside)?;
    let listen = match listen.rsplit_once(':') {
        None => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port(listen)?),
        Some((address, outside)) => SocketAddr::new(address_of(address)?, port(outside)?),
    };
    Some(Publish { listen, inside })
}

/// An address in its one spelling; IPv6 in brackets, as in `[::1]`.
fn address_of(text: &str) -> Option<IpAddr> {
    let address = match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => IpAddr::V6(inner.parse().ok()?),
        None => IpAddr::V4(text.parse().ok()?),
    };
    // `::ffff:127.0.0.1` and `127.0.0.1` are one listener under two names.
    let one_name = !matches!(address, IpAddr::V6(six) if six.to_ipv4_mapped().is_some());
    (one_name && !address.is_multicast()).then_some(address)
}

/// Digits alone: `+80`, `080` and ` 80` are read differently elsewhere.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten()
}

/// `forward`: a map from port inside to service.
pub(crate) fn forward(scope: &mut Scope<'_>, node: &Node) -> Vec<Said<Forward>> {
    let mut all: Vec<Said<Forward>> = Vec::new();
    for entry in scope.map(node, "`forward`").unwrap_or_default() {
        let inside = port(&entry.key);
        if inside.is_none() {
            let message = format!("`forward` of {} has the port {}", scope.owner, excerpt(&entry.key));
            let fix = "write the port inside, from 1 to 65535, as in `5432: \"127.0.0.1:5432\"`";
            scope.error(entry.key_at, Code::BadValue, message, fix);
        }
        let to = service(scope, entry);
        if let (Some(inside), Some(to)) = (inside, to) {
            // A map's keys differ, and a port has one spelling.
            all.push(scope.said(Forward { inside, to }, entry.key_at));
        }
    }
    all
}

fn service(scope: &mut Scope<'_>, entry: &Entry) -> Option<Service> {
    let what = format!("`forward.{}`", entry.key.escape_default());
    let text = scope.text(&entry.value, &what)?;
    let at = entry.value.at;
    if text.starts_with('/') || text.starts_with("~/") {
        let Some(path) = host_paths::expand(text, scope.home) else {
            let message = format!("{what} of {} is {}", scope.owner, excerpt(text));
            scope.error(at, Code::BadValue, message, "write the path without `.` and `..`");
            return None;
        };
        if let Some(why) = refused_socket(&path, scope.home, scope.carboy_home) {
            let message = format!("{what} of {} is refused: {why}", scope.owner);
            let fix = "forward a service that serves data, not one that acts for you; or give the bottle a route";
            scope.error(at, Code::SocketRefused, message, fix);
            return None;
        }
        return Some(Service::Unix(path));
    }
    let Ok(address) = text.parse::<SocketAddr>() else {
        let message = format!("{what} of {} is {}", scope.owner, excerpt(text));
        scope.error(at, Code::BadValue, message, FORWARD_FIX);
        return None;
    };
    if let Some(why) = refused_address(address) {
        let message = format!("{what} of {} is {}: {why}", scope.owner, excerpt(text));
        scope.error(at, Code::SocketRefused, message, FORWARD_FIX);
        return None;
    }
    Some(Service::Tcp(address))
}

/// Why this address is never a bottle's; `None` when it may be.
pub fn refused_address(address: SocketAddr) -> Option<&'static str> {
    let link_local = match address.ip().to_canonical() {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.is_unicast_link_local(),
    };
    match address.ip().to_canonical() {
        _ if address.port() == 0 => Some("0 is no port"),
        ip if ip.is_unspecified() || ip.is_multicast() => Some("it is not the address of one service"),
        _ if link_local => Some("clouds hand out a machine's credentials at link-local addresses"),
        IpAddr::V4(_) | IpAddr::V6(_) if address.port() == DOCKER_PORT => {
            Some("whoever speaks to Docker is root of the host")
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// `--publish SPEC`, spelled as an entry of `publish:`.
pub fn publish_flag(text: &str) -> Result<Publish, String> {
    publish_text(text).ok_or_else(|| format!("--publish {}: {PUBLISH_FIX}", excerpt(text)))
}

/// `--forward SPEC`, spelled `PORT:SERVICE`, refused for the same reasons as an entry of `forward:`.
pub fn forward_flag(text: &str, home: &Path, carboy_home: &Path) -> Result<Forward, String> {
    let wrong = |why: &str| format!("--forward {}: {why}", excerpt(text));
    let usage =
        || wrong("write the port inside, a colon and the service, as in 5432:127.0.0.1:5432 or 6379:/run/redis.sock");
    let (inside, service) = text.split_once(':').ok_or_else(usage)?;
    let inside = port(inside).ok_or_else(usage)?;
    if service.starts_with('/') || service.starts_with("~/") {
        let path = host_paths::expand(service, home).ok_or_else(|| wrong("write the path without `.` and `..`"))?;
        return match refused_socket(&path, home, carboy_home) {
            Some(why) => Err(wrong(&format!("refused: {why}"))),
            None => Ok(Forward { inside, to: Service::Unix(path) }),
        };
    }
    let address = service.parse::<SocketAddr>().map_err(|_| usage())?;
    match refused_address(address) {
        Some(why) => Err(wrong(&format!("refused: {why}"))),
        None => Ok(Forward { inside, to: Service::Tcp(address) }),
    }
}

/// What only the whole shows: how many, and a port that would lead from the host through the bottle back to the host.
pub(crate) fn check(publish: &[Said<Publish>], forward: &[Said<Forward>], owner: &str, out: &mut Diagnostics) {
    for (key, count) in [("publish", publish.len()), ("forward", forward.len())] {
        if count > PORTS_MAX {
            let message = format!("`{key}` of {owner} has {count} ports together, more than {PORTS_MAX}");
            out.push(Diagnostic::error(Code::TooComplex, message, "remove some"));
        }
    }
    for one in publish {
        if forward.iter().any(|known| known.value.inside == one.value.inside) {
            let message = format!("port {} of {owner} is both published and forwarded", one.value.inside);
            let fix = "use another port inside for one of the two";
            out.push_once(Diagnostic::error(Code::BadValue, message, fix).at(&one.place.file, one.place.at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_port_has_one_spelling() {
        let says = |text: &str| publish_text(text).map(|one| format!("{}>{}", one.listen, one.inside));
        assert_eq!(says("3000"), Some("127.0.0.1:3000>3000".into()));
        assert_eq!(says("8080:3000"), Some("127.0.0.1:8080>3000".into()));
        assert_eq!(says("0.0.0.0:8080:3000"), Some("0.0.0.0:8080>3000".into()));
        assert_eq!(says("[::1]:8080:3000"), Some("[::1]:8080>3000".into()));
        for text in [
            "",
            "0",
            "65536",
            "080",
            "+80",
            "80:",
            ":80",
            "80:0",
            "a:80:80",
            "::1:80:80",
            "[127.0.0.1]:80:80",
            "localhost:80:80",
            "[::ffff:127.0.0.1]:80:80",
            "224.0.0.1:80:80",
            "1:2:3:4",
        ] {
            assert_eq!(says(text), None, "{text}");
        }
    }

    #[test]
    fn a_flag_is_read_and_refused_like_an_entry() {
        let forward = |text: &str| forward_flag(text, Path::new("/home/u"), Path::new("/home/u/.carboy"));
        let to = |text: &str| forward(text).map(|one| (one.inside, one.to));
        assert_eq!(to("5432:127.0.0.1:15432"), Ok((5432, Service::Tcp("127.0.0.1:15432".parse().unwrap()))));
        assert_eq!(to("5432:[::1]:15432"), Ok((5432, Service::Tcp("[::1]:15432".parse().unwrap()))));
        assert_eq!(to("6379:~/r.sock"), Ok((6379, Service::Unix("/home/u/r.sock".into()))));
        for text in [
            "5432",
            "5432:",
            "0:127.0.0.1:1",
            "5432:localhost:5432",
            "5432:r.sock",
            "1:/var/run/docker.sock",
            "1:/a/../run/docker.sock",
            "1:169.254.169.254:80",
        ] {
            assert!(forward(text).is_err(), "{text}");
        }
        assert_eq!(publish_flag("8080:3000").unwrap().inside, 3000);
        assert!(publish_flag("localhost:80:80").is_err());
    }

    #[test]
    fn a_socket_by_which_one_becomes_the_host_user_is_refused() {
        let refused =
            |text: &str| refused_socket(Path::new(text), Path::new("/home/u"), Path::new("/home/u/.carboy")).is_some();
        for text in [
            "/var/run/docker.sock",
            "/run/docker.sock",
            "/run/docker/x.sock",
            "/srv/x/docker.sock",
            "/home/u/.docker/run/docker.sock",
            "/run/containerd/containerd.sock",
            "/run/k3s/containerd/containerd.sock",
            "/run/podman/podman.sock",
            "/run/user/1000/podman/podman.sock",
            "/run/user/1000/bus",
            "/run/systemd/private",
            "/run/dbus/system_bus_socket",
            "/var/run/dbus/system_bus_socket",
            "/tmp/ssh-XXabc/agent.123",
            "/home/u/.ssh/agent",
            "/home/u/.gnupg/S.gpg-agent.ssh",
            "/tmp/S.gpg-agent",
            "/tmp/tmux-1000/default",
            "/tmp/.X11-unix/X0",
            "/home/u/.carboy/run/dev.sock",
            "/run/snapd.socket",
        ] {
            assert!(refused(text), "{text}");
        }
        for text in
            ["/run/redis/redis.sock", "/var/run/postgresql/.s.PGSQL.5432", "/srv/app.sock", "/home/u/db/my.sock"]
        {
            assert!(!refused(text), "{text}");
        }
    }

    #[test]
    fn an_address_that_hands_out_the_host_is_refused() {
        let refused = |text: &str| refused_address(text.parse().unwrap()).is_some();
        for text in [
            "127.0.0.1:0",
            "0.0.0.0:80",
            "169.254.169.254:80",
            "[::ffff:169.254.169.254]:80",
            "[fe80::1]:80",
            "224.0.0.1:80",
            "127.0.0.1:2375",
        ] {
            assert!(refused(text), "{text}");
        }
        for text in ["127.0.0.1:5432", "[::1]:5432", "10.0.0.5:5432"] {
            assert!(!refused(text), "{text}");
        }
    }
}
