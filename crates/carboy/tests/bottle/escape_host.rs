//! Ways to the host beside the network: its sockets, its descriptors, its terminal, its files, and life after the end.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};

use crate::host;
use crate::world::{Person, World};
use crate::{Case, case, case_with};

const PYTHON: &str = "/usr/bin/python3";

pub fn cases() -> Vec<Case> {
    vec![
        case_with(
            "B44 no socket of the host is reached by path, by abstract name or by variable",
            &[PYTHON],
            host_sockets,
        ),
        case_with("B44 a socket that a host process has in the workspace is not reached", &[PYTHON], workspace_sockets),
        case_with("B47 no descriptor of whoever started carboy comes inside", &[PYTHON], inherited_descriptors),
        case_with("B47 a socket as a standard stream is not handed in", &[PYTHON], socket_as_a_stream),
        case_with(
            "B47 the terminal of whoever started carboy is not the program's",
            &[PYTHON, "setsid", "script"],
            controlling_terminal,
        ),
        case("nothing in a bottle outlives its supervisor", killed_supervisor),
    ]
}

/// Runs the script with these variables in the host's environment; gives the lines of what was not refused.
fn reached(world: &World, variables: &[(&str, &str)], places: &[&str]) -> Vec<String> {
    world.write("project/sockets.py", include_str!("attacks/sockets.py"));
    let mut arguments = vec!["run", "--bottle", "test", "--", PYTHON, "sockets.py"];
    arguments.extend(places);
    let output = world.carboy(&arguments).envs(variables.iter().copied()).output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success() && stdout.lines().count() > 90, "{stdout}\n{stderr}");
    let failed = [": ENOENT", ": ECONNREFUSED", ": ENOTDIR", ": EACCES", ": EPERM", ": EPROTOTYPE"];
    stdout.lines().filter(|line| !failed.iter().any(|end| line.ends_with(end))).map(str::to_owned).collect()
}

fn host_sockets(person: Person) {
    let world = World::new(person);
    let unique = format!("carboy-test-{}-{person:?}", std::process::id());
    let beside = world.dir.join("beside.sock");
    let in_tmp = std::env::temp_dir().join(format!("{unique}.sock"));
    let in_run = std::path::Path::new("/run").join(format!("{unique}.sock"));
    let mut listeners = Vec::new();
    for path in [&beside, &in_tmp, &in_run] {
        // Below /run only root may.
        if let Ok(listener) = UnixListener::bind(path) {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
            listeners.push(listener);
        }
    }
    assert!(listeners.len() >= 2);
    listeners.push(UnixListener::bind_addr(&SocketAddr::from_abstract_name(&unique).unwrap()).unwrap());
    let datagrams = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("{unique}-d")).unwrap()).unwrap();
    let runtime = world.dir.join("runtime");
    fs::create_dir(&runtime).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
    let (bus, agent) = (format!("unix:abstract={unique}"), beside.to_str().unwrap());
    let variables = [
        ("DOCKER_HOST", "unix:///run/docker.sock"),
        ("DBUS_SESSION_BUS_ADDRESS", bus.as_str()),
        ("SSH_AUTH_SOCK", agent),
        ("XDG_RUNTIME_DIR", runtime.to_str().unwrap()),
        ("WAYLAND_DISPLAY", "wayland-0"),
        ("DISPLAY", ":0"),
        ("NOTIFY_SOCKET", bus.as_str()),
    ];
    let abstracts =
        [format!("@{unique}"), format!("@{unique}-d"), "@/tmp/.X11-unix/X0".into(), "@/containerd-shim/x.sock".into()];
    let mut places = vec![agent, in_tmp.to_str().unwrap(), in_run.to_str().unwrap()];
    places.extend(abstracts.iter().map(String::as_str));
    let lines = reached(&world, &variables, &places);
    let _ = (fs::remove_file(&in_tmp), fs::remove_file(&in_run));
    assert!(lines.is_empty(), "{lines:#?}");
    for listener in listeners {
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "{listener:?} was reached");
    }
    datagrams.set_nonblocking(true).unwrap();
    assert!(datagrams.recv(&mut [0; 64]).is_err());
    // Programs that talk to the host's services find nobody.
    let ran = world.sh(
        "for c in 'systemd-run true' 'systemd-run --user true' 'systemctl poweroff' 'docker ps' 'podman --remote ps' 'busctl list' \
         'dbus-send --system --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ListNames' 'at now' 'logger x' 'loginctl' 'pkexec true' 'crontab -l'; do \
         timeout 5 $c >/dev/null 2>&1 </dev/null && echo \"$c\"; done; true",
    );
    assert_eq!(ran.expect_code(0).stdout.replace("logger x\n", ""), "");
    world.assert_nothing_escaped();
}

fn workspace_sockets(person: Person) {
    let world = World::new(person);
    let deep = "deep/".repeat(12);
    for dir in [format!("project/{deep}x"), "project/.git/x".into(), "shared/x".into()] {
        world.write(&dir, "");
    }
    let shared = world.dir.join("shared");
    let paths = [
        world.project.join("early.sock"),
        world.project.join(format!("{deep}early.sock")),
        world.project.join(".git/fsmonitor--daemon.ipc"),
        shared.join("early.sock"),
    ];
    let mut listeners = Vec::new();
    for path in &paths {
        listeners.push(UnixListener::bind(path).unwrap());
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let datagrams = UnixDatagram::bind(world.project.join("early.dgram")).unwrap();
    fs::set_permissions(world.project.join("early.dgram"), fs::Permissions::from_mode(0o777)).unwrap();
    world.bottle(&format!("binds: {{\"{}\": ro}}\n", shared.display()));
    let mut places: Vec<&str> = paths.iter().map(|path| path.to_str().unwrap()).collect();
    places.extend(["early.sock", "early.dgram", "./deep/../early.sock"]);
    let lines = reached(&world, &[], &places);
    for listener in &listeners {
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "a host process was reached through the workspace: {lines:#?}");
    }
    datagrams.set_nonblocking(true).unwrap();
    assert!(datagrams.recv(&mut [0; 64]).is_err());
    assert!(lines.is_empty(), "{lines:#?}");
    // Sockets of the bottle's own work, in the workspace too, and the host's are still there afterwards.
    world.write(
        "project/own.py",
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.bind('own.sock')\ns.listen()\nc = socket.socket(socket.AF_UNIX)\n\
         c.connect('own.sock')\nprint('own')\n",
    );
    assert_eq!(world.run(&[PYTHON, "own.py"]).expect_code(0).stdout, "own\n");
    assert!(paths.iter().all(|path| UnixStream::connect(path).is_ok()));
}

/// Lets a descriptor through `exec`.
fn leak(fd: BorrowedFd<'_>) {
    fcntl_setfd(fd, FdFlags::empty()).unwrap();
}

fn inherited_descriptors(person: Person) {
    let world = World::new(person);
    world.write("project/descriptors.py", include_str!("attacks/descriptors.py"));
    world.write("beside.txt", "canary in an open file");
    let file = File::open(world.dir.join("beside.txt")).unwrap();
    let directory = File::open("/").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let terminal = File::options().read(true).write(true).open("/dev/ptmx").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    for fd in [
        file.as_fd(),
        directory.as_fd(),
        listener.as_fd(),
        theirs.as_fd(),
        ours.as_fd(),
        terminal.as_fd(),
        reader.as_fd(),
        writer.as_fd(),
    ] {
        leak(fd);
    }
    let ran = world.run(&[PYTHON, "descriptors.py"]).expect_code(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines, ["0 pipe", "1 pipe", "2 pipe", "session True terminal number 0"]);
    // Of all processes inside whose descriptors can be seen, none has more; the init's cannot be seen.
    let ran = world.sh(
        "for p in /proc/[0-9]*; do for f in $p/fd/*; do t=$(readlink $f 2>/dev/null) && echo \"$t\"; done; done; true",
    );
    let others: Vec<&str> =
        ran.stdout.lines().filter(|l| !l.starts_with("pipe:[") && !l.starts_with("/proc/")).collect();
    assert_eq!(others, Vec::<&str>::new(), "{}", ran.stdout);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
}

fn socket_as_a_stream(person: Person) {
    let world = World::new(person);
    world.write("project/descriptors.py", include_str!("attacks/descriptors.py"));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = world.carboy(&["run", "--bottle", "test", "--", PYTHON, "descriptors.py"]);
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs.try_clone().unwrap())));
    command.stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
    let mut child = command.spawn().unwrap();
    drop(command);
    ours.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    (&ours).read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(text.starts_with("0 pipe\n1 pipe\n2 pipe\nsession"), "{text}");
}

fn controlling_terminal(person: Person) {
    let world = World::new(person);
    world.write("project/descriptors.py", include_str!("attacks/descriptors.py"));
    // `script` gives carboy a controlling terminal; its three streams are elsewhere.
    let mut inner = world.carboy(&["run", "--bottle", "test", "--", PYTHON, "descriptors.py"]);
    inner.stdin(Stdio::null());
    let words: Vec<String> =
        std::iter::once(inner.get_program()).chain(inner.get_args()).map(|w| w.to_str().unwrap().to_owned()).collect();
    let out = world.dir.join("streams.txt");
    let line = format!("{} </dev/null >{} 2>&1", words.join(" "), out.display());
    let mut outer = std::process::Command::new("script");
    outer.args(["-qec", &line, "/dev/null"]).current_dir(&world.project).env_clear();
    for (name, value) in inner.get_envs() {
        outer.env(name, value.unwrap_or_default());
    }
    let status = outer.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
    let text = fs::read_to_string(&out).unwrap();
    assert!(status.success(), "{text}");
    assert!(text.contains("0 pipe\n1 pipe\n2 pipe\nsession True terminal number 0\n"), "{text}");
}

fn killed_supervisor(person: Person) {
    let world = World::new(person);
    let marker = format!("outlive-{}-{person:?}", std::process::id());
    // Every way to stay: a session of its own, orphans, deaf to signals, stopped, and one that forks on and on.
    let script = "trap '' HUP TERM INT QUIT USR1 PIPE; \
                  setsid sh -c 'trap \"\" HUP TERM INT; while :; do sleep 1000; done' $0 & \
                  (setsid sh -c 'sleep 1000; :' $0 & ) & \
                  sh -c 'kill -STOP $$; :' $0 & \
                  sh -c 'while :; do sh -c \"sleep 0.05; :\" $0 & sleep 0.05; done' $0 & \
                  echo ready; while :; do sleep 1000; done";
    let mut child = world.carboy(&["run", "--bottle", "test", "--", "sh", "-c", script, &marker]).spawn().unwrap();
    let mut ready = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let started = Instant::now();
    while host::processes_with(&marker).len() < 6 {
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", host::processes_with(&marker));
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    loop {
        let left = host::processes_with(&marker);
        if left.is_empty() {
            break;
        }
        let names: Vec<String> = left.iter().map(|pid| host::program_of(*pid)).collect();
        assert!(killed.elapsed() < Duration::from_secs(1), "alive a second after the supervisor: {left:?} {names:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    // The next run starts over what it left behind.
    let ran = world.sh("echo again").expect_code(0);
    assert_eq!(ran.stdout, "again\n");
    std::io::stdout().flush().unwrap();
}
