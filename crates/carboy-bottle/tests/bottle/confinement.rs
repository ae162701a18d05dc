//! What a process inside cannot do, and what it cannot see.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;

use carboy_core::plan::Limits;
use libtest_mimic::Trial;

use crate::harness::{Sketch, is_root, needs, prints, trial};

/// Tries calls by their numbers; prints `name=errno` for each.
fn calls(name: &str, list: &'static [(&'static str, &'static str, i32)]) -> Trial {
    needs(
        "perl",
        trial(name, move || {
            let tries: String = list
                .iter()
                .map(|(name, call, _)| format!("$! = 0; syscall({call}); print '{name}=', $!+0, \"\\n\";\n"))
                .collect();
            let expected: Vec<String> = list.iter().map(|(name, _, errno)| format!("{name}={errno}")).collect();
            Sketch::new(&["perl", "-e", &tries]).run()?.expect_output(&expected.join("\n"))
        }),
    )
}

const EPERM: i32 = libc::EPERM;
const ENOSYS: i32 = libc::ENOSYS;

#[cfg(target_arch = "x86_64")]
const DANGEROUS: &[(&str, &str, i32)] = &[
    // B45
    ("io_uring_setup", "425, 1, 0", ENOSYS),
    ("io_uring_enter", "426, 0, 0, 0, 0, 0, 0", ENOSYS),
    ("io_uring_register", "427, 0, 0, 0, 0", ENOSYS),
    // B46
    ("unshare user", "272, 0x10000000", EPERM),
    ("setns", "308, 0, 0", EPERM),
    ("clone user", "56, 0x10000011, 0, 0, 0, 0", EPERM),
    ("clone net", "56, 0x40000011, 0, 0, 0, 0", EPERM),
    ("clone3", "435, 0, 0", ENOSYS),
    ("mount", "165, 0, 0, 0, 0, 0", EPERM),
    ("umount2", "166, 0, 0", EPERM),
    ("pivot_root", "155, 0, 0", EPERM),
    ("chroot", "161, 0", EPERM),
    ("open_tree", "428, 0, 0, 0", EPERM),
    ("move_mount", "429, 0, 0, 0, 0, 0", EPERM),
    ("fsopen", "430, 0, 0", EPERM),
    ("mount_setattr", "442, 0, 0, 0, 0, 0", EPERM),
    // B48
    ("ptrace", "101, 0, 0, 0, 0", EPERM),
    ("process_vm_readv", "310, 1, 0, 0, 0, 0, 0", EPERM),
    ("process_vm_writev", "311, 1, 0, 0, 0, 0, 0", EPERM),
    ("pidfd_getfd", "438, 0, 0, 0", EPERM),
    // B59 and kernel surface
    ("bpf", "321, 0, 0, 0", EPERM),
    ("perf_event_open", "298, 0, 0, 0, 0, 0", EPERM),
    ("userfaultfd", "323, 0", EPERM),
    ("keyctl", "250, 0, 0, 0, 0, 0", EPERM),
    ("add_key", "248, 0, 0, 0, 0, 0", EPERM),
    ("request_key", "249, 0, 0, 0, 0", EPERM),
    ("init_module", "175, 0, 0, 0", EPERM),
    ("finit_module", "313, 0, 0, 0", EPERM),
    ("kexec_load", "246, 0, 0, 0, 0", EPERM),
    ("open_by_handle_at", "304, 0, 0, 0", EPERM),
    ("personality", "135, 0x0400000", EPERM),
    ("openat2", "437, 0, 0, 0, 0", ENOSYS),
    ("a call from the future", "600, 0", ENOSYS),
    ("open_tree_attr", "467, 0", ENOSYS),
    ("TIOCSTI", "16, 0, 0x5412, 0", EPERM),
    ("TIOCSTI with high bits", "16, 0, 0x100005412, 0", EPERM),
    ("TIOCLINUX", "16, 0, 0x541c, 0", EPERM),
];

#[cfg(not(target_arch = "x86_64"))]
const DANGEROUS: &[(&str, &str, i32)] = &[("io_uring_setup", "425, 1, 0", ENOSYS), ("clone3", "435, 0, 0", ENOSYS)];

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        calls("the dangerous system calls are refused", DANGEROUS),
        prints(
            "the host's crash handler is not started, and the limit that says so cannot be lowered",
            "ulimit -c 0; ulimit -Hc 0; grep core /proc/self/limits | tr -s ' '",
            "Max core file size 1 1 bytes",
        ),
        prints(
            "no capability is left in any set, and none can come back",
            "grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\\t ' ' '; \
             grep CapBnd /proc/1/status | tr '\\t' ' '",
            "CapInh: 0000000000000000\nCapPrm: 0000000000000000\nCapEff: 0000000000000000\nCapBnd: 0000000000000000\n\
             CapAmb: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2\nCapBnd: 0000000000000000",
        ),
        // B59
        prints(
            "neither core_pattern, modprobe, sysrq nor any other switch of the host can be written",
            "for f in sys/kernel/core_pattern sys/kernel/modprobe sysrq-trigger sys/kernel/hostname sys/net/ipv4/ip_forward \
             sys/vm/drop_caches irq/default_smp_affinity; do [ -e /proc/$f ] || continue; \
             (echo x > /proc/$f) 2>/dev/null && echo \"wrote $f\"; done; \
             ls -A /sys 2>/dev/null; head -c1 /proc/kcore 2>/dev/null | wc -c; cat /proc/keys /proc/kallsyms 2>/dev/null | wc -c",
            "0\n0",
        ),
        // B59: what is root's on the host is nobody's here
        prints(
            "root's files belong to nobody",
            "stat -c %u:%g /usr/bin/env; cut -f1 -d' ' /proc/self/uid_map | wc -l",
            "65534:65534\n1",
        ),
        trial("host id 0 is not mapped", || {
            let ran = Sketch::shell("cat /proc/self/uid_map /proc/self/gid_map").run()?;
            for line in ran.stdout.lines() {
                let fields: Vec<u32> = line.split_whitespace().map(|f| f.parse().unwrap()).collect();
                assert_eq!((fields[0], fields[2]), (1000, 1), "{line}");
                assert_ne!(fields[1], 0, "{line}");
            }
            assert_eq!(ran.stdout.lines().count(), 2);
            Ok(())
        }),
        // B48
        prints(
            "init cannot be read, and nothing of the host's processes is to be seen",
            "for f in mem environ fd/0 maps root cwd exe; do cat /proc/1/$f >/dev/null 2>&1 && echo \"read $f\"; \
             ls /proc/1/$f/ >/dev/null 2>&1 && echo \"listed $f\"; done; \
             ls /proc/1/fd /proc/1/task/1/fd 2>/dev/null; ls -d /proc/[0-9]* | wc -l | awk '{print ($1 < 6)}'",
            "1",
        ),
        // B44
        prints(
            "no socket of the host is to be seen",
            "find /run /var /tmp /dev /home -type s 2>/dev/null; ls -A /run; cat /proc/net/unix | tail -n +2",
            "",
        ),
        needs(
            "perl",
            trial("an abstract socket of the host cannot be reached", || {
                use std::os::linux::net::SocketAddrExt;
                let name = format!("carboy-test-{}", std::process::id());
                let address = std::os::unix::net::SocketAddr::from_abstract_name(&name)?;
                let _listener = UnixListener::bind_addr(&address)?;
                let script = format!(
                    r#"use Socket; socket(my $s, 1, 1, 0); print connect($s, pack_sockaddr_un("\0{name}")) ? "in" : "out";"#
                );
                Sketch::new(&["perl", "-e", &script]).run()?.expect_output("out")
            }),
        ),
        // B47
        trial("no descriptor but the three streams is inherited, not even a leaked one", || {
            let mut secret = tempfile::tempfile()?;
            secret.write_all(b"canary")?;
            let leaked = secret.as_raw_fd();
            // SAFETY: clears close-on-exec of a descriptor that this test owns.
            #[allow(unsafe_code)]
            unsafe {
                libc::fcntl(leaked, libc::F_SETFD, 0)
            };
            // `ls` itself holds one more, the directory.
            Sketch::new(&["ls", "/proc/self/fd"]).run()?.expect_output("0\n1\n2\n3")
        }),
        trial("the supervisor's environment is in no process inside", || {
            let ran =
                Sketch::shell("cat /proc/*/environ | tr '\\0' '\\n' | cut -d= -f1 | sort -u | tr '\\n' ' '").run()?;
            ran.expect_output("GIT_CONFIG_SYSTEM HOME PATH PWD")
                .or_else(|_| ran.expect_output("GIT_CONFIG_SYSTEM HOME PATH"))
        }),
        // B50
        needs(
            "cp",
            prints(
                "a copied program or the dynamic loader gets nothing more",
                "cp /usr/bin/head /tmp/h && /tmp/h -c1 /proc/kcore | wc -c; ls /proc/self/root/root /proc/1/root 2>/dev/null | wc -l",
                "0\n0",
            ),
        ),
        prints(
            "no set-uid file can be made",
            "touch f; chmod u+s f 2>/dev/null && echo chmod; chmod 2755 f 2>/dev/null && echo setgid; chmod 755 f; \
             perl -e 'use Fcntl; sysopen(F, \"g\", O_CREAT|O_WRONLY, 04755) and print \"open\\n\"; \
             syscall(452, -100, \"f\", 04755, 0) == 0 and print \"fchmodat2\\n\";' ; find . -perm /6000; stat -c %a f",
            "755",
        ),
        needs(
            "perl",
            trial("a fork bomb meets its bound", || {
                let mut sketch = Sketch::new(&[
                    "perl",
                    "-e",
                    "my $n = 0; while ($n < 500) { my $p = fork; last unless defined $p; if (!$p) { sleep 30; exit } $n++ } print $n < 64 ? \"bounded\" : $n;",
                ]);
                sketch.spec.limits = Limits { processes_max: 64, ..Limits::default() };
                sketch.run()?.expect_output("bounded")
            }),
        ),
        needs(
            "perl",
            trial("memory has its bound", || {
                let mut sketch = Sketch::new(&["perl", "-e", "my $x = 'x' x 400_000_000; print length $x"]);
                sketch.spec.limits = Limits { memory_bytes_max: Some(100_000_000), ..Limits::default() };
                let ran = sketch.run()?;
                assert_eq!(ran.stdout, "", "{:?}", ran.report);
                Ok(())
            }),
        ),
        trial("the group of a bottle is gone with it", || {
            let sketch = Sketch::new(&["true"]);
            sketch.run()?;
            let name = format!("carboy-{}", sketch.spec.run.as_str());
            for top in ["/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"] {
                assert!(!std::path::Path::new(top).join(&name).exists());
            }
            Ok(())
        }),
        trial("Landlock is in force where the kernel has it", || {
            let has = std::fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|list| list.contains("landlock"));
            let bottle = Sketch::new(&["true"]).launch()?;
            assert!(!has || bottle.holds().landlock_abi > 0);
            Ok(())
        }),
        trial("the doctor gives the tier that a bottle gets", || {
            let scratch = tempfile::tempdir()?;
            let report = carboy_bottle::probe(scratch.path());
            assert_eq!(report.tier, Some(carboy_core::plan::CaptureTier::T1), "{report:#?}");
            assert_eq!(std::fs::read_dir(scratch.path())?.count(), 0);
            Ok(())
        }),
    ];
    if is_root() {
        trials.push(trial("root's bottle never maps host id 0", || {
            let mut sketch = Sketch::new(&["true"]);
            sketch.spec.host_ids = Some((0, 0));
            match sketch.launch() {
                Err(error) => {
                    assert!(error.to_string().contains("--user NAME"), "{error}");
                    Ok(())
                }
                Ok(_) => Err("launched".into()),
            }
        }));
    }
    #[cfg(target_arch = "x86_64")]
    trials.push(needs(
        "perl",
        trial("x32 system calls kill", || {
            let ran = Sketch::new(&["perl", "-e", "syscall(0x40000000 + 39); print 'alive'"]).run()?;
            assert_eq!(ran.report.outcome, carboy_bottle::ExitOutcome::Signal(libc::SIGSYS), "{}", ran.stdout);
            Ok(())
        }),
    ));
    trials
}
