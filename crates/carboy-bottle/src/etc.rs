//! What of `/etc` a bottle sees: an allow-list of the host's, and files of its own.

/// The one name server; any address reaches the supervisor, this one lies in carboy's own pool.
pub const NAME_SERVER: &str = "198.18.0.1";

/// Git's system-wide settings inside.
pub const GIT_CONFIG: &str = "/etc/gitconfig";
const GIT_OVERLOOKS: &str = "/etc/gitignore";
/// Where a generated file may say who commits; git reads on when it is not there.
pub const GIT_IDENTITY: &str = "/etc/carboy/gitconfig";

/// Entries of the host's `/etc` that hold settings of libraries and no secret.
const SHARED: [&str; 29] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/alternatives",
    // Never /etc/ssl as a whole: it has private keys.
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/ssl/ct_log_list.cnf",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/java",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/mime.types",
    "/etc/terminfo",
    "/etc/services",
    "/etc/protocols",
    "/etc/os-release",
    "/etc/debian_version",
    "/etc/inputrc",
    "/etc/fonts",
    "/etc/magic",
    "/etc/gai.conf",
    "/etc/maven",
];

/// Host paths to mount read-only, those that exist among them.
pub fn shared() -> Vec<String> {
    let mut paths: Vec<String> = SHARED.iter().map(|path| (*path).to_owned()).collect();
    if let Ok(entries) = std::fs::read_dir("/etc") {
        let java = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        paths.extend(java.filter(|name| name.starts_with("java")).map(|name| format!("/etc/{name}")));
    }
    paths
}

/// Files that carboy makes itself.
///
/// The stubs of absent steering files would be seen by `git add -A` and committed; git's system-wide settings inside
/// name them as to be overlooked.
pub fn generated(host_name: &str, git_overlooks: &[String], shell: &str) -> [(&'static str, String); 11] {
    let overlooked: String = git_overlooks.iter().map(|below| format!("**/{below}\n")).collect();
    [
        (
            "/etc/passwd",
            format!(
                "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\nagent:x:1000:1000:agent:/home/agent:{shell}\n\
                 nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
            ),
        ),
        ("/etc/group", "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n".to_owned()),
        ("/etc/hosts", format!("127.0.0.1 localhost {host_name}\n::1 localhost ip6-localhost ip6-loopback\n")),
        ("/etc/hostname", format!("{host_name}\n")),
        ("/etc/host.conf", "multi on\n".to_owned()),
        // A refusal comes at once, so that neither more tries nor a longer wait would help.
        ("/etc/resolv.conf", format!("nameserver {NAME_SERVER}\noptions timeout:5 attempts:2\n")),
        (
            "/etc/nsswitch.conf",
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\n\
             services: files\nethers: files\nrpc: files\n"
                .to_owned(),
        ),
        ("/etc/shells", "/bin/sh\n/bin/bash\n".to_owned()),
        ("/etc/machine-id", String::new()),
        (GIT_CONFIG, format!("[core]\n\texcludesFile = {GIT_OVERLOOKS}\n[include]\n\tpath = {GIT_IDENTITY}\n")),
        (GIT_OVERLOOKS, overlooked),
    ]
}
