//! Ways to the host beside the network: its sockets, rings, other families, descriptors, memory, brokers and switches.

use serde_json::Value;

use super::Expect::{Kernel, NoName, Told, Works};
use super::{Round, Row, Variant, alone, dns, py, row, sh, tls, variant};
use crate::attack::{CANARY_IS_KNOWN, Outside};
use crate::host;
use crate::world::{Person, World};

/// What the kernel says to whoever looks for a socket that is not there.
const NOT_THERE: &[&str] = &["ENOENT", "ENOTDIR", "ECONNREFUSED", "EACCES"];
/// To whoever may not.
const MAY_NOT: &[&str] = &["EPERM", "EACCES"];
/// To whoever wants to write what is masked, read-only or another's.
const NOT_WRITABLE: &[&str] = &["EROFS", "EACCES", "EPERM", "ENOENT", "ENOTDIR"];
/// What stands where something was looked for and nothing was found.
const NONE: &[&str] = &["none"];

pub fn run(person: Person) {
    let world = World::new(person);
    world.settings(CANARY_IS_KNOWN);
    let outside = Outside::new(&world);
    let lan = super::split(outside.v4());
    let home = world.dir.join("home").display().to_string();
    let rows = vec![
        host_sockets(&home),
        rings(),
        families(),
        descriptors(),
        others_memory(),
        pointers(&lan),
        brokers(&home),
        switches(),
    ];
    let ran = Round::new(&world, &outside, "kernel", person).judge(&rows);
    // B52: whatever a program says of itself, the log has the bottle that its connection came out of.
    for entry in ran.entries.iter().filter(|entry| entry.text("action") == Some("request")) {
        let line = String::from_utf8(entry.to_line()).unwrap();
        assert!(line.contains("\"bottle\":\"test\"") && !line.contains("another-bottle"), "{line}");
    }
    no_listener_of_a_filter(&world);
}

/// Python that connects to each of these sockets.
fn connects(paths: &[&str]) -> Value {
    let list: Vec<String> = paths.iter().map(|path| format!("{path:?}")).collect();
    py(format!(
        "for p in [{}]:\n for k in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):\n  attempt(lambda: socket.socket(socket.AF_UNIX, k).connect('\\0' + p[1:] if p[0] == '@' else p))\n",
        list.join(", ")
    ))
}

fn host_sockets(home: &str) -> Row {
    let program = |words: &str| {
        sh(format!(
            "command -v {} >/dev/null || {{ echo none; exit; }}; timeout 5 {words} >/dev/null 2>&1 </dev/null && echo done || echo none",
            words.split(' ').next().unwrap()
        ))
    };
    row(
        "B44 no socket of the host is there, by path, by abstract name or by the program that knows it",
        vec![
            variant(
                "container engines",
                connects(&[
                    "/run/docker.sock",
                    "/var/run/docker.sock",
                    "/run/podman/podman.sock",
                    "/run/containerd/containerd.sock",
                    "/run/crio/crio.sock",
                    "/run/buildkit/buildkitd.sock",
                ]),
                Kernel(NOT_THERE),
            ),
            variant(
                "buses and the init of the host",
                connects(&[
                    "/run/dbus/system_bus_socket",
                    "/run/systemd/private",
                    "/run/systemd/notify",
                    "/run/systemd/journal/socket",
                    "/run/systemd/journal/stdout",
                    "/run/user/0/bus",
                    "/run/user/1000/bus",
                ]),
                Kernel(NOT_THERE),
            ),
            variant(
                "agents of keys",
                connects(&[
                    "/tmp/ssh-agent.sock",
                    "/run/user/1000/gnupg/S.gpg-agent",
                    "/run/user/1000/keyring/ssh",
                    "/run/pcscd/pcscd.comm",
                    "/run/nscd/socket",
                ]),
                Kernel(NOT_THERE),
            ),
            variant(
                "displays and sound",
                connects(&[
                    "/tmp/.X11-unix/X0",
                    "/run/user/1000/wayland-0",
                    "/run/user/1000/pulse/native",
                    "/run/user/1000/pipewire-0",
                ]),
                Kernel(NOT_THERE),
            ),
            variant(
                "abstract names",
                connects(&[
                    "@/tmp/.X11-unix/X0",
                    "@/containerd-shim/x.sock",
                    "@/org/freedesktop/systemd1/notify",
                    "@ISCSIADM_ABSTRACT_NAMESPACE",
                    "@dbus-1",
                ]),
                Kernel(NOT_THERE),
            ),
            variant(
                "carboy's own",
                connects(&[
                    &format!("{home}/run/controller.sock"),
                    &format!("{home}/controller.sock"),
                    "/run/carboy/controller.sock",
                ]),
                Kernel(NOT_THERE),
            ),
            variant("systemd-run", program("systemd-run true"), Kernel(NONE)),
            variant("systemd-run of the user", program("systemd-run --user true"), Kernel(NONE)),
            variant("docker", program("docker ps"), Kernel(NONE)),
            variant("busctl", program("busctl list"), Kernel(NONE)),
            variant("at and cron", program("crontab -l"), Kernel(NONE)),
            variant("pkexec", program("pkexec true"), Kernel(NONE)),
        ],
    )
}

fn rings() -> Row {
    let absent: &[&str] = &["ENOSYS"];
    row(
        "B45 no ring makes a socket past the filter",
        vec![
            variant(
                "io_uring_setup",
                py("p = ctypes.create_string_buffer(256); call(425, 425, 8, ctypes.addressof(p))"),
                Kernel(absent),
            ),
            variant(
                "with a polling thread",
                py("p = ctypes.create_string_buffer(256); p[8] = b'\\x02'; call(425, 425, 8, ctypes.addressof(p))"),
                Kernel(absent),
            ),
            variant("io_uring_enter", py("call(426, 426, 0, 1, 1, 1, 0, 0)"), Kernel(absent)),
            variant("io_uring_register", py("call(427, 427, 0, 0, 0, 0)"), Kernel(absent)),
            variant("calls that came after it", py("for n in range(463, 520): call(n, n, 0, 0, 0, 0)"), Kernel(absent)),
            variant(
                "by the numbers of another ABI",
                py(
                    "if not X86: print('none'); sys.exit()\npid = os.fork()\nif not pid:\n libc.syscall(ctypes.c_long(0x40000000 | 425), ctypes.c_long(8), ctypes.c_long(0)); os._exit(0)\n_, s = os.waitpid(pid, 0); print('none' if os.WIFSIGNALED(s) else 'done')",
                ),
                Kernel(NONE),
            ),
        ],
    )
}

fn families() -> Row {
    let family = |number: u32, kind: u32, protocol: u32| {
        py(format!("attempt(lambda: socket.socket({number}, {kind}, {protocol}).close())"))
    };
    let refused: &[&str] = &["EAFNOSUPPORT"];
    let mut variants: Vec<Variant> = [
        ("AF_PACKET", 17, 3, 3),
        ("AF_PACKET of datagrams", 17, 2, 3),
        ("AF_VSOCK", 40, 1, 0),
        ("AF_ALG", 38, 5, 0),
        ("AF_BLUETOOTH", 31, 3, 1),
        ("AF_XDP", 44, 3, 0),
        ("AF_TIPC", 30, 1, 0),
        ("AF_SMC", 43, 1, 0),
        ("netlink: netfilter", 16, 3, 12),
        ("netlink: audit", 16, 3, 9),
        ("netlink: sock_diag", 16, 3, 4),
        ("netlink: generic", 16, 3, 16),
        ("netlink: kobject events", 16, 3, 15),
    ]
    .iter()
    .map(|(what, number, kind, protocol)| variant(*what, family(*number, *kind, *protocol), Kernel(refused)))
    .collect();
    let flags = "for f in (0x10000000, 0x40000000, 0x20000, 0x20000000, 0x4000000, 0x8000000, 0x2000000, 0x50000000): ";
    let change = "def send(kind, body):\n r = socket.socket(16, 3, 0); r.bind((0, 0)); r.settimeout(3)\n r.send(struct.pack('=IHHII', 16 + len(body), kind, 0x605, 1, 0) + body)\n a = r.recv(65536); c = struct.unpack('=i', a[16:20])[0]\n if struct.unpack('=H', a[4:6])[0] == 2 and c: raise OSError(-c, '')\n";
    variants.extend([
        variant("a family in a wide register", py("call(41, 198, (1 << 32) | 17, 3, 0)"), Kernel(refused)),
        variant("raw sockets of the families that are there", py("for a in ((2, 3, 255), (2, 3, 1), (2, 3, 6), (10, 3, 255), (10, 3, 58)): attempt(lambda: socket.socket(*a))"), Kernel(&["EPERM", "EAFNOSUPPORT"])),
        variant("unshare of each kind", py(format!("{flags}call(272, 97, f)")), Kernel(&["EPERM"])),
        variant("clone into each kind", py(format!("{flags}call(56, 220, f | 17, 0, 0, 0, 0)")), Kernel(&["EPERM"])),
        variant("clone3, whose flags nobody sees", py("call(435, 435, 0, 0)"), Kernel(&["ENOSYS"])),
        variant("setns", py("for n in ('net', 'user', 'mnt', 'pid'):\n fd = os.open(f'/proc/self/ns/{n}', 0); call(308, 268, fd, 0)"), Kernel(&["EPERM"])),
        variant("mount, in each of its forms", py("call(165, 40, 0, 0, 0, 0, 0); call(428, 428, -100, 0, 1); call(430, 430, 0, 0); call(442, 442, -100, 0, 0, 0, 0); call(155, 41, 0, 0); call(161, 51, 0)"), Kernel(&["EPERM"])),
        variant("an address over the route socket", py(format!("{change}attempt(lambda: send(20, struct.pack('=BBBBI', 2, 32, 0, 0, 1) + struct.pack('=HH4s', 8, 2, bytes([10, 1, 2, 3]))))")), Kernel(&["EPERM"])),
        variant("a route over the route socket", py(format!("{change}attempt(lambda: send(24, struct.pack('=BBBBBBBBI', 2, 0, 0, 0, 254, 3, 253, 1, 0) + struct.pack('=HHI', 8, 4, 1)))")), Kernel(&["EPERM"])),
        variant("a device over the route socket", py(format!("{change}attempt(lambda: send(16, struct.pack('=BxHiII', 0, 0, 0, 0, 0)))")), Kernel(&["EPERM"])),
        variant("bpf, userfaultfd, perf, keys", py("call(321, 280, 0, 0, 0); call(323, 282, 0); call(298, 241, 0, 0, -1, -1, 0); call(248, 217, 0, 0, 0, 0, 0); call(250, 219, 0, 0)"), Kernel(&["EPERM"])),
    ]);
    row("B46 no other family of sockets, no namespace, and nothing that changes the network", variants)
}

fn descriptors() -> Row {
    let listed = "def kinds(pid):\n for f in os.listdir(f'/proc/{pid}/fd'):\n  try: t = os.readlink(f'/proc/{pid}/fd/{f}')\n  except OSError: continue\n  if not (t.startswith('pipe:') or t == '/dev/null' or t.startswith('/proc/') or t.startswith(os.getcwd())): print(t)\n";
    row(
        "B47 no descriptor of the host's is here, and nobody is there to hand one over",
        vec![
            variant("of this process", py(format!("{listed}kinds('self'); print('none')")), Kernel(NONE)),
            variant(
                "of the program's first process",
                py(format!("{listed}kinds(os.getppid()); print('none')")),
                Kernel(NONE),
            ),
            variant("of the init", py("attempt(lambda: os.listdir('/proc/1/fd') and None)"), Kernel(MAY_NOT)),
            variant(
                "by pidfd_getfd",
                py("fd = os.pidfd_open(1); call(438, 438, fd, 0, 0); call(438, 438, fd, 3, 0)"),
                Kernel(MAY_NOT),
            ),
            variant(
                "a socket among the streams",
                py(
                    "import stat\nprint('done' if any(stat.S_ISSOCK(os.fstat(f).st_mode) for f in (0, 1, 2)) else 'none')",
                ),
                Kernel(NONE),
            ),
            variant(
                "a terminal of the host's",
                py("attempt(lambda: os.close(os.open('/dev/tty', os.O_RDWR)))"),
                Kernel(&["ENXIO", "ENOENT", "EACCES", "EPERM"]),
            ),
            variant(
                "a directory above the root",
                py(
                    "os.chdir('/')\nfor _ in range(40): os.chdir('..')\na, b = os.stat('.'), os.stat('/')\nprint('none' if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) else 'done')",
                ),
                Kernel(NONE),
            ),
            variant("by a file's handle", py("call(304, 265, -100, 0, 0)"), Kernel(MAY_NOT)),
        ],
    )
}

fn others_memory() -> Row {
    row(
        "B48 no other process is read, traced or written",
        vec![
            variant(
                "ptrace of the init",
                py("call(101, 117, 16, 1, 0, 0); call(101, 117, 0x4206, 1, 0, 0)"),
                Kernel(MAY_NOT),
            ),
            variant(
                "memory of the init",
                py("for f in ('mem', 'maps', 'environ', 'auxv'): attempt(lambda: open(f'/proc/1/{f}', 'rb').read(1))"),
                Kernel(MAY_NOT),
            ),
            variant(
                "its root, its directory, its program",
                py("for f in ('root/etc', 'cwd/x', 'exe'): attempt(lambda: os.stat(f'/proc/1/{f}') and None)"),
                Kernel(MAY_NOT),
            ),
            variant(
                "process_vm_readv and writev",
                py("call(310, 270, 1, 0, 0, 0, 0, 0); call(311, 271, 1, 0, 0, 0, 0, 0)"),
                Kernel(MAY_NOT),
            ),
            variant(
                "memory of a program of its own, for writing another's into it",
                py("call(101, 117, 0, 0, 0, 0)"),
                Kernel(MAY_NOT),
            ),
            variant(
                "processes of the host",
                py(
                    "own = [int(p) for p in os.listdir('/proc') if p.isdigit()]\ndef line(p):\n    try: return open(f'/proc/{p}/cmdline').read()\n    except (FileNotFoundError, ProcessLookupError): return ''\nprint('none' if max(own) < 5000 and 1 in own and not any('carboy-bin' in line(p) for p in own if p not in (1, os.getpid())) else 'done')",
                ),
                Kernel(NONE),
            ),
            variant(
                "a signal to everybody leaves the init",
                py(
                    "import signal\nos.kill(1, signal.SIGKILL); os.kill(1, signal.SIGSTOP); os.kill(1, 0); print('none')",
                ),
                Kernel(NONE),
            ),
            variant(
                "no helper of the gateway's to attack",
                py(
                    "def name(p):\n    try: return open(f'/proc/{p}/comm').read().strip()\n    except (FileNotFoundError, ProcessLookupError): return ''\nnames = [name(p) for p in os.listdir('/proc') if p.isdigit()]\nprint('done' if any(n in ('socat', 'slirp4netns', 'pasta', 'passt', 'bwrap', 'redsocks') for n in names) else 'none')",
                ),
                Kernel(NONE),
            ),
        ],
    )
}

fn pointers(lan: &(String, u16)) -> Row {
    let filter = "class F(ctypes.Structure): _fields_ = [('c', ctypes.c_uint16), ('t', ctypes.c_uint8), ('f', ctypes.c_uint8), ('k', ctypes.c_uint32)]\n\
        class P(ctypes.Structure): _fields_ = [('n', ctypes.c_uint16), ('p', ctypes.POINTER(F))]\n\
        nr = 41 if X86 else 198\n\
        code = (F * 4)(F(0x20, 0, 0, 0), F(0x15, 0, 1, nr), F(0x06, 0, 0, 0x7fc00000), F(0x06, 0, 0, 0x7fff0000))\n\
        libc.prctl(38, 1, 0, 0, 0)\n\
        fd = libc.syscall(ctypes.c_long(317 if X86 else 277), ctypes.c_long(1), ctypes.c_long(8), ctypes.byref(P(4, code)))\n";
    // One thread calls, another changes what the pointer points to; whatever the kernel read is where it arrives.
    let race = format!(
        "import threading\na = socket.inet_aton('198.19.0.1'); b = socket.inet_aton('{}')\n\
         s = ctypes.create_string_buffer(struct.pack('=H', 2) + struct.pack('>H', {}) + a + bytes(8), 16); stop = False\n\
         def flip():\n while not stop:\n  s[4:8] = b\n  s[4:8] = a\n\
         threading.Thread(target=flip, daemon=True).start()\nout = ''\n\
         for n in range(40):\n c = socket.socket()\n if libc.connect(c.fileno(), s, 16) == 0:\n  c.sendall(b'GET /{{mark}} HTTP/1.1\\r\\nHost: notes.example\\r\\nConnection: close\\r\\n\\r\\n'); out = c.recv(65536).decode()\n c.close()\nstop = True\nprint(out)\n",
        lan.0, lan.1
    );
    row(
        "B49 nothing is decided by what stands behind a pointer",
        vec![
            variant("an address that changes under connect", py(race), Told("address_not_allowed")),
            variant(
                "calls whose arguments no filter sees",
                py("call(435, 435, 0, 88); call(437, 437, -100, 0, 0, 24)"),
                Kernel(&["ENOSYS"]),
            ),
            variant(
                "a listener of the program's own lets nothing through",
                py(format!("{filter}call(41, 198, 17, 3, 0)")),
                Kernel(&["EAFNOSUPPORT"]),
            ),
            variant(
                "filters of its own are only added",
                py(format!(
                    "{filter}print('none' if open('/proc/self/status').read().split('Seccomp:')[1].split()[0] == '2' else 'done')"
                )),
                Kernel(NONE),
            ),
            variant(
                "no descriptor of a listener is to be seen",
                alone(py(
                    "t = []\nfor p in os.listdir('/proc'):\n try: t += [os.readlink(f'/proc/{p}/fd/{f}') for f in os.listdir(f'/proc/{p}/fd')]\n except OSError: pass\nprint('done' if any('seccomp' in x for x in t) else 'none')",
                )),
                Kernel(NONE),
            ),
        ],
    )
}

fn brokers(home: &str) -> Row {
    let said = |fields: &str| {
        tls(
            "notes.example",
            "notes.example",
            serde_json::json!([format!(
                "GET /sink/{{mark}} HTTP/1.1\r\nHost: notes.example\r\n{fields}Connection: close\r\n\r\n"
            )]),
        )
    };
    let denied = |fields: &str| {
        tls(
            "notes.example",
            "notes.example",
            serde_json::json!([format!(
                "GET /{{mark}}/git-receive-pack HTTP/1.1\r\nHost: notes.example\r\n{fields}Connection: close\r\n\r\n"
            )]),
        )
    };
    row(
        "B52 no broker of credentials and no administration is in reach, and nobody is who a field says",
        vec![
            variant(
                "sockets that are files",
                py(
                    "import stat\nf = []\nfor top in ('/run', '/tmp', '/var', '/home', '/root', '/dev', os.getcwd()):\n for d, _, names in os.walk(top):\n  for n in names:\n   try:\n    if stat.S_ISSOCK(os.lstat(os.path.join(d, n)).st_mode): f.append(os.path.join(d, n))\n   except OSError: pass\nprint(f if f else 'none')",
                ),
                Kernel(NONE),
            ),
            variant(
                "sockets of the family without a file",
                py(
                    "rows = open('/proc/net/unix').read().splitlines()[1:]\nprint('none' if not [r for r in rows if len(r.split()) > 7] else rows)",
                ),
                Kernel(NONE),
            ),
            variant(
                "the controller's socket and files",
                sh(format!(
                    "ls '{home}' '{home}/run' '{home}/carboy.db' '{home}/settings.yml' >/dev/null 2>&1 && echo done || echo none"
                )),
                Kernel(NONE),
            ),
            variant(
                "listeners on loopback",
                py(
                    "own = set()\nfor f in ('tcp', 'tcp6'):\n for r in open(f'/proc/net/{f}').read().splitlines()[1:]:\n  w = r.split()\n  if w[3] == '0A': own.add(int(w[1].split(':')[1], 16))\nprint('none' if own <= {61053} else own)",
                ),
                Kernel(NONE),
            ),
            variant(
                "variables that name one",
                py(
                    "bad = [n for n in os.environ if n in ('SSH_AUTH_SOCK', 'DOCKER_HOST', 'DBUS_SESSION_BUS_ADDRESS', 'GPG_AGENT_INFO', 'CARBOY_HOME', 'CARBOY_SOCKET', 'XDG_RUNTIME_DIR', 'AWS_CONTAINER_CREDENTIALS_FULL_URI')]\nprint(bad if bad else 'none')",
                ),
                Kernel(NONE),
            ),
            variant(
                "a name for its administration",
                dns("controller.carboy.internal", 1),
                NoName("name_not_allowed", "controller.carboy.internal".into()),
            ),
            variant(
                "another name for its administration",
                dns("admin.carboy.internal", 1),
                NoName("name_not_allowed", "admin.carboy.internal".into()),
            ),
            variant(
                "fields that say another bottle",
                denied(
                    "X-Carboy-Bottle: another-bottle\r\nX-Carboy-Run: another-bottle\r\nX-Carboy-Refusal: x-000000\r\n",
                ),
                Told("git_push_not_allowed"),
            ),
            variant(
                "fields that say another client",
                denied(
                    "X-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\nForwarded: for=another-bottle\r\nVia: 1.1 another-bottle\r\n",
                ),
                Told("git_push_not_allowed"),
            ),
            variant(
                "a password of a proxy's",
                denied("Proxy-Authorization: Basic YW5vdGhlci1ib3R0bGU6eA==\r\n"),
                Told("git_push_not_allowed"),
            ),
            variant(
                "fields that say another bottle, where it is allowed",
                said("X-Carboy-Bottle: another-bottle\r\nX-Forwarded-For: 127.0.0.1\r\n"),
                Works,
            ),
        ],
    )
}

fn switches() -> Row {
    let writes = |paths: &[&str]| {
        let list: Vec<String> = paths.iter().map(|path| format!("{path:?}")).collect();
        py(format!("for p in [{}]: attempt(lambda: os.close(os.open(p, os.O_WRONLY)))", list.join(", ")))
    };
    row(
        "B59 no switch of the host can be turned, and nobody inside is more than an ordinary user",
        vec![
            variant(
                "who handles a core",
                writes(&["/proc/sys/kernel/core_pattern", "/proc/sys/kernel/core_pipe_limit"]),
                Kernel(NOT_WRITABLE),
            ),
            variant(
                "who loads a module, who answers an event",
                writes(&[
                    "/proc/sys/kernel/modprobe",
                    "/proc/sys/kernel/hotplug",
                    "/proc/sys/kernel/usermodehelper/bset",
                    "/sys/kernel/uevent_helper",
                ]),
                Kernel(NOT_WRITABLE),
            ),
            variant(
                "sysrq and the rest of the kernel's",
                writes(&[
                    "/proc/sysrq-trigger",
                    "/proc/sys/kernel/sysrq",
                    "/proc/sys/vm/overcommit_memory",
                    "/proc/sys/fs/binfmt_misc/register",
                    "/proc/sys/net/ipv4/ip_forward",
                    "/proc/irq/0/smp_affinity",
                    "/proc/bus/pci/00/00.0",
                ]),
                Kernel(NOT_WRITABLE),
            ),
            variant(
                "what the kernel knows of itself",
                py(
                    "for p in ('/proc/kcore', '/proc/kallsyms', '/proc/keys', '/proc/timer_list', '/dev/mem', '/dev/kmsg'):\n try: n = len(open(p, 'rb').read(64).strip(b'\\0 '))\n except OSError as e: print(errno.errorcode[e.errno]); continue\n print('none' if n == 0 or b'0000000000000000' in open(p, 'rb').read(64) else p)",
                ),
                Kernel(&["none", "EACCES", "EPERM", "ENOENT"]),
            ),
            variant(
                "control groups",
                writes(&[
                    "/sys/fs/cgroup/release_agent",
                    "/sys/fs/cgroup/cgroup.procs",
                    "/sys/fs/cgroup/notify_on_release",
                    "/sys/fs/cgroup/memory/release_agent",
                ]),
                Kernel(NOT_WRITABLE),
            ),
            variant(
                "a namespace of its own to be root in",
                py(
                    "for p in ('/proc/self/uid_map', '/proc/self/gid_map', '/proc/self/setgroups'):\n def w():\n  with open(p, 'w') as f: f.write('0 0 1')\n attempt(w)",
                ),
                Kernel(NOT_WRITABLE),
            ),
            variant(
                "a device of its own",
                py(
                    "import stat\nfor t in (stat.S_IFCHR, stat.S_IFBLK): attempt(lambda: os.mknod('device', t | 0o666, os.makedev(1, 1)))",
                ),
                Kernel(NOT_WRITABLE),
            ),
            variant(
                "set-user-id of a copy",
                py(
                    "import shutil\nshutil.copy('/bin/sh', 'suid-sh')\nfor m in (0o4755, 0o2755, 0o6755): attempt(lambda: os.chmod('suid-sh', m))",
                ),
                Kernel(&["EPERM"]),
            ),
            variant(
                "powers and user ids",
                py(
                    "s = open('/proc/self/status').read()\nf = {l.split(':')[0]: l.split(':')[1].split() for l in s.splitlines()}\nprint('none' if all(int(f[c][0], 16) == 0 for c in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')) and f['NoNewPrivs'] == ['1'] and '0' not in f['Uid'] else s)",
                ),
                Kernel(NONE),
            ),
            variant(
                "user 0 by set-user-id programs and calls",
                py("attempt(lambda: os.setuid(0)); attempt(lambda: os.setgid(0)); attempt(lambda: os.setgroups([0]))"),
                Kernel(&["EPERM", "EINVAL"]),
            ),
        ],
    )
}

/// B49: a supervisor that answers for system calls would hold one; neither it nor anything of it does.
fn no_listener_of_a_filter(world: &World) {
    let agent = world.agent();
    let all = host::processes_with(&world.dir.display().to_string());
    assert!(!all.is_empty());
    for pid in all {
        for fd in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let to = std::fs::read_link(fd.path()).unwrap_or_default();
            assert!(!to.display().to_string().contains("seccomp"), "{}: {}", host::program_of(pid), to.display());
        }
    }
    agent.finish();
}
