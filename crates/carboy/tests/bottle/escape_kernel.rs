//! Ways out through the kernel: other ways to make sockets, other namespaces, other processes, switches of the host.

use std::fs;

use crate::attack::Outside;
use crate::host;
use crate::world::{Person, Ran, World};
use crate::{Case, case, case_with};

const PYTHON: &str = "/usr/bin/python3";

pub fn cases() -> Vec<Case> {
    vec![
        case_with("B45 no ring makes a socket past the filter", &[PYTHON], rings),
        case_with(
            "B46 no other socket family, and nothing over a route socket changes the network",
            &[PYTHON],
            families,
        ),
        case_with("B46 no namespace is made or entered", &[PYTHON], namespaces),
        case_with("B48 no other process is read, traced or robbed of its descriptors", &[PYTHON], others),
        // B59
        case("B59 no switch of the host can be turned", switches),
        case("B59 what runs inside is an ordinary user of the host without any power", powers),
        case("B59 nothing in the workspace becomes more than it was", special_files),
    ]
}

/// Runs a part of the script; its lines are `name: what came of it`. At the end, an ordinary connection is captured.
fn kernel(person: Person, part: &str) -> (Ran, Vec<(String, String)>) {
    let world = World::new(person);
    let outside = Outside::new(&world);
    world.write("project/kernel.py", include_str!("attacks/kernel.py"));
    let ran = world.run(&[PYTHON, "kernel.py", part, &outside.v4().to_string()]).expect_code(0);
    let lines = ran.stdout.lines().filter_map(|line| line.split_once(": "));
    let mut tries: Vec<(String, String)> = lines.map(|(name, result)| (name.into(), result.into())).collect();
    assert_eq!(tries.pop(), Some(("afterwards".into(), "captured".into())), "{}", ran.stdout);
    assert_eq!(ran.refused("address_not_allowed"), 1, "{:#?}", ran.entries);
    world.assert_nothing_escaped();
    outside.assert_untouched();
    (ran, tries)
}

/// All of them failed; the names and results of those that did not.
fn assert_all(tries: &[(String, String)], failures: &[&str], at_least: usize) {
    let others: Vec<_> = tries.iter().filter(|(_, result)| !failures.contains(&result.as_str())).collect();
    assert!(others.is_empty() && tries.len() >= at_least, "{} tries, among them {others:#?}", tries.len());
}

fn rings(person: Person) {
    let (_, tries) = kernel(person, "rings");
    assert_all(&tries, &["ENOSYS"], 4);
}

fn families(person: Person) {
    let (_, tries) = kernel(person, "families");
    let (route, sockets): (Vec<_>, Vec<_>) = tries
        .into_iter()
        .partition(|(name, _)| !name.contains("AF_") && !name.contains("raw") && !name.contains("netlink"));
    // Raw sockets of the allowed families fail for want of a capability.
    assert_all(&sockets, &["EAFNOSUPPORT", "EPERM"], 20);
    let family_of_its_own = |name: &str| !name.starts_with("raw ");
    assert!(sockets.iter().all(|(name, result)| !family_of_its_own(name) || result == "EAFNOSUPPORT"), "{sockets:#?}");
    assert_all(&route, &["EPERM"], 6);
}

fn namespaces(person: Person) {
    let (_, tries) = kernel(person, "namespaces");
    assert_all(&tries, &["EPERM", "ENOSYS", "EACCES"], 30);
}

fn others(person: Person) {
    let (_, mut tries) = kernel(person, "others");
    let at = tries.iter().position(|(name, _)| name == "processes").unwrap();
    let (_, processes) = tries.remove(at);
    // There is nobody but the init and the program: no relay, no bridge, no helper.
    assert_eq!(processes.split(' ').count(), 2, "{processes}");
    assert_all(&tries, &["EPERM", "EACCES", "ENOENT", "EISDIR"], 35);
}

fn switches(person: Person) {
    let world = World::new(person);
    let watched = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname",
        "/proc/sys/net/ipv4/ip_forward",
    ];
    let read = |path: &&str| fs::read_to_string(path).unwrap_or_default();
    let before: Vec<String> = watched.iter().map(read).collect();
    let ran = world.sh(
        "for f in kernel/core_pattern kernel/modprobe kernel/hotplug kernel/hostname kernel/sysrq kernel/panic kernel/yama/ptrace_scope \
           kernel/usermodehelper/bset kernel/ns_last_pid kernel/randomize_va_space fs/binfmt_misc/register fs/protected_symlinks fs/suid_dumpable \
           vm/drop_caches vm/overcommit_memory net/ipv4/ip_forward net/ipv4/ping_group_range net/ipv4/ip_unprivileged_port_start user/max_user_namespaces; do \
           (echo x > /proc/sys/$f) 2>/dev/null && echo \"wrote $f\"; done\n\
         for f in sysrq-trigger irq/default_smp_affinity bus/pci/devices fs/nfsd acpi/wakeup mtrr kcore kmsg keys kallsyms timer_list sched_debug \
           1/oom_score_adj 1/oom_adj 1/uid_map 1/gid_map 1/setgroups 1/attr/current 1/loginuid 1/clear_refs self/uid_map self/gid_map self/setgroups self/loginuid; do \
           [ \"$(stat -c %t:%T /proc/$f 2>/dev/null)\" = 1:3 ] && continue; (echo 1 > /proc/$f) 2>/dev/null && echo \"wrote $f\"; done\n\
         cat /proc/kcore /proc/kmsg /proc/keys /proc/kallsyms 2>/dev/null | head -c1\n\
         ls -A /sys 2>/dev/null\n\
         mkdir -p /tmp/c && mount -t cgroup -o memory c /tmp/c 2>/dev/null && echo 'mounted cgroup'\n\
         mount -t sysfs s /tmp/c 2>/dev/null && echo 'mounted sysfs'\n\
         mount -t proc p /tmp/c 2>/dev/null && echo 'mounted proc'\n\
         mount --bind / /tmp/c 2>/dev/null && echo 'bound /'\n\
         mount -o remount,rw /usr 2>/dev/null && echo 'remounted /usr'\n\
         find / -xdev -name release_agent -o -xdev -name notify_on_release 2>/dev/null\n\
         find /sys /cgroup /dev -type b -o -path '*release_agent*' 2>/dev/null\n\
         ls /dev/mem /dev/kmem /dev/port /dev/kvm /dev/fuse /dev/net/tun /dev/sda /dev/vda /dev/loop0 /dev/mapper 2>/dev/null\n\
         for d in /usr /usr/bin /etc /opt /bin /lib /dev /proc / /etc/carboy /run /var /home; do (echo x > $d/x) 2>/dev/null && echo \"wrote below $d\"; done\n\
         for f in /etc/passwd /etc/resolv.conf /etc/hosts /usr/bin/env /etc/ld.so.preload /etc/ld.so.cache; do (: >> $f) 2>/dev/null && echo \"wrote $f\"; done\n\
         sethostname=$(hostname x 2>/dev/null && echo done); echo \"$sethostname\" | grep done\n\
         true",
    );
    assert_eq!(ran.expect_code(0).stdout, "");
    assert_eq!(watched.iter().map(read).collect::<Vec<_>>(), before);
}

/// A text that no other process has among its arguments.
fn marker() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    format!("marker-{}-{}", std::process::id(), NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

fn powers(person: Person) {
    let world = World::new(person);
    let marker = marker();
    // The marker is an argument of the shell inside and, one level further out, of the supervisor.
    let script = "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\\t ' ' '; id -u; id -g; \
                  grep CapBnd /proc/1/status | tr '\\t' ' '; cat /proc/self/uid_map | tr -s ' '; sleep 2; sudo -n true 2>/dev/null && echo sudo; \
                  su -c true </dev/null 2>/dev/null && echo su; for f in $(find /usr/bin -perm -4000 2>/dev/null | head -5); do \
                  $f --version >/dev/null 2>&1 </dev/null & done; wait; true";
    let mut child = world.carboy(&["run", "--bottle", "test", "--", "sh", "-c", script, &marker]).spawn().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let inside = loop {
        let found = host::processes_with(&marker)
            .into_iter()
            .find(|pid| host::program_of(*pid) == "sh" && host::namespaces_of(*pid) > 1);
        match found {
            Some(pid) => break pid,
            None => assert!(
                std::time::Instant::now() < deadline && child.try_wait().unwrap().is_none(),
                "not found from outside"
            ),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    let status = fs::read_to_string(format!("/proc/{inside}/status")).unwrap();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("{name} {status}"))
            .trim()
            .to_owned()
    };
    // From outside: never uid 0, in no form, in no group of root's.
    for name in ["Uid:", "Gid:"] {
        let ids = field(name);
        assert!(ids.split_whitespace().all(|id| id.parse::<u32>().unwrap() != 0), "{name} {ids}");
    }
    assert!(field("Groups:").split_whitespace().all(|id| id != "0"), "{}", field("Groups:"));
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(name), "0000000000000000", "{name}");
    }
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()));
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(
        lines.contains(&"Uid: 1000 1000 1000 1000")
            && lines.contains(&"NoNewPrivs: 1")
            && lines.contains(&"Seccomp: 2"),
        "{stdout}"
    );
    assert!(!lines.contains(&"sudo") && !lines.contains(&"su"), "{stdout}");
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("Cap") && line.ends_with(": 0000000000000000")).count(),
        6,
        "{stdout}"
    );
}

fn special_files(person: Person) {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new(person);
    world.write("outside/secret.txt", "canary beside the workspace");
    std::os::unix::fs::symlink("../outside", world.project.join("door")).unwrap();
    std::os::unix::fs::symlink("/root", world.project.join("root")).unwrap();
    std::os::unix::fs::symlink(world.dir.join("home"), world.project.join("carboy-home")).unwrap();
    let script = format!(
        "cat door/secret.txt ../outside/secret.txt {0}/outside/secret.txt {0}/home/settings.yml carboy-home/settings.yml root/.bashrc 2>/dev/null\n\
         ls root/ door/ carboy-home/ {0}/home {0}/user 2>/dev/null\n\
         echo '#!/bin/sh' > s; chmod 4755 s 2>/dev/null && echo 'chmod u+s'; chmod g+s s 2>/dev/null && echo 'chmod g+s'; chmod 6755 . 2>/dev/null && echo 'chmod dir'\n\
         cp -p /usr/bin/su copied 2>/dev/null; install -m 4755 /usr/bin/env installed 2>/dev/null && echo 'install'\n\
         mknod b b 8 0 2>/dev/null && echo 'mknod b'; mknod c c 1 1 2>/dev/null && echo 'mknod c'\n\
         chown 0:0 s 2>/dev/null && echo chown; setcap cap_net_raw+ep s 2>/dev/null && echo setcap\n\
         setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 s 2>/dev/null && echo setfattr\n\
         ln /usr/bin/env hard 2>/dev/null && echo 'hard link'\n\
         find . -perm /6000 2>/dev/null; true",
        world.dir.display()
    );
    let ran = world.sh(&script).expect_code(0);
    assert_eq!(ran.stdout, "");
    for entry in fs::read_dir(&world.project).unwrap().flatten() {
        let meta = fs::symlink_metadata(entry.path()).unwrap();
        assert_eq!(meta.permissions().mode() & 0o6000, 0, "{}", entry.path().display());
    }
}
