//! The controller as a service of the user's systemd: printed, never installed by itself.

use std::path::Path;

/// The unit's name.
pub const UNIT: &str = "carboy-controller.service";

/// The unit's text for this program and home. `home` is `None` for the user's own.
pub fn text(program: &Path, home: Option<&Path>) -> String {
    let quoted = |path: &Path| {
        format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
    };
    let (arguments, writable) = match home {
        Some(home) => (format!(" --home {}", quoted(home)), quoted(home)),
        None => (String::new(), "%h/.carboy".to_owned()),
    };
    let program = quoted(program);
    format!(
        "\
[Unit]
Description=carboy's controller: budgets, holds and the ledger of this user
Documentation=man:carboy(1)

[Service]
Type=exec
ExecStart={program}{arguments} controller run
Restart=on-failure
RestartSec=1
# Everything is durable before it is answered: a stop needs no patience, only order.
TimeoutStopSec=20
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallArchitectures=native
SystemCallFilter=@system-service
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writable} %t
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
LimitCORE=0

[Install]
WantedBy=default.target
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_names_this_program_and_this_home() {
        let own = text(Path::new("/usr/bin/carboy"), None);
        assert!(
            own.contains("ExecStart=\"/usr/bin/carboy\" controller run\n")
                && own.contains("ReadWritePaths=%h/.carboy %t")
        );
        let other = text(Path::new("/opt/my carboy"), Some(Path::new("/srv/a%b")));
        assert!(other.contains("ExecStart=\"/opt/my carboy\" --home \"/srv/a%%b\" controller run\n"), "{other}");
        assert!(other.contains("ReadWritePaths=\"/srv/a%%b\" %t"), "{other}");
    }
}
