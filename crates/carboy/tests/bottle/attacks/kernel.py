"""Tries to get past the bottle through the kernel; prints one line for each try: its name and what came of it."""

import ctypes
import errno
import os
import socket
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
# Calls by number; newer ones have the same number everywhere.
NUMBERS = {
    "unshare": 272 if X86 else 97,
    "setns": 308 if X86 else 268,
    "mount": 165 if X86 else 40,
    "umount2": 166 if X86 else 39,
    "pivot_root": 155 if X86 else 41,
    "chroot": 161 if X86 else 51,
    "clone": 56 if X86 else 220,
    "ptrace": 101 if X86 else 117,
    "process_vm_readv": 310 if X86 else 270,
    "process_vm_writev": 311 if X86 else 271,
    "keyctl": 250 if X86 else 219,
    "add_key": 248 if X86 else 217,
    "request_key": 249 if X86 else 218,
    "bpf": 321 if X86 else 280,
    "perf_event_open": 298 if X86 else 241,
    "userfaultfd": 323 if X86 else 282,
    "init_module": 175 if X86 else 105,
    "kexec_load": 246 if X86 else 104,
    "open_by_handle_at": 304 if X86 else 265,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "clone3": 435,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
}


def say(name, result):
    print(f"{name}: {result}", flush=True)


def call(name, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(NUMBERS[name], *[ctypes.c_long(a) for a in arguments])
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def attempt(name, action):
    try:
        result = action()
        say(name, "done" if result is None else result)
    except OSError as error:
        say(name, errno.errorcode.get(error.errno, str(error)))


def rings():
    # A ring with its parameters, the ways to use one, and one that polls by a kernel thread.
    parameters = ctypes.create_string_buffer(256)
    at = ctypes.addressof(parameters)
    say("io_uring_setup", call("io_uring_setup", 8, at))
    parameters[8] = b"\x02"
    say("io_uring_setup with a polling thread", call("io_uring_setup", 8, at))
    say("io_uring_enter", call("io_uring_enter", 0, 1, 1, 1, 0, 0))
    say("io_uring_register", call("io_uring_register", 0, 0, 0, 0))


def families():
    kinds = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM, "raw": socket.SOCK_RAW, "seqpacket": socket.SOCK_SEQPACKET}
    tries = [
        ("AF_PACKET raw", 17, "raw", 3),
        ("AF_PACKET dgram", 17, "dgram", 3),
        ("AF_VSOCK", 40, "stream", 0),
        ("AF_ALG", 38, "seqpacket", 0),
        ("AF_BLUETOOTH", 31, "raw", 1),
        ("AF_CAN", 29, "raw", 1),
        ("AF_XDP", 44, "raw", 0),
        ("AF_TIPC", 30, "stream", 0),
        ("AF_KEY", 15, "raw", 2),
        ("AF_QIPCRTR", 42, "dgram", 0),
        ("AF_SMC", 43, "stream", 0),
        ("raw IPv4", 2, "raw", 255),
        ("raw ICMP", 2, "raw", 1),
        ("raw IPv6", 10, "raw", 255),
        ("netlink netfilter", 16, "raw", 12),
        ("netlink audit", 16, "raw", 9),
        ("netlink kobject", 16, "raw", 15),
        ("netlink generic", 16, "raw", 16),
        ("netlink sock_diag", 16, "raw", 4),
        ("netlink xfrm", 16, "raw", 6),
    ]
    for name, family, kind, protocol in tries:
        attempt(name, lambda: socket.socket(family, kinds[kind], protocol).close())
    # The high half of a register is not what the kernel looks at.
    say("AF_PACKET in a wide register", wide_socket())


def wide_socket():
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(41 if X86 else 198), ctypes.c_long((1 << 32) | 17), ctypes.c_long(3), ctypes.c_long(0))
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def route_messages():
    """Every message over NETLINK_ROUTE that would change the network."""

    def send(kind, body, flags=0x5):
        route = socket.socket(16, socket.SOCK_RAW, 0)
        route.bind((0, 0))
        route.settimeout(3)
        message = struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body
        route.send(message)
        answer = route.recv(65536)
        length, answered, _, _, _ = struct.unpack("=IHHII", answer[:16])
        if answered != 2:
            return f"answer {answered}"
        code = struct.unpack("=i", answer[16:20])[0]
        return "done" if code == 0 else errno.errorcode[-code]

    link = struct.pack("=BxHiII", 0, 0, 1, 0, 1)
    address = struct.pack("=BBBBI", 2, 32, 0, 0, 1) + struct.pack("=HH4s", 8, 2, bytes([10, 1, 2, 3]))
    # type unicast, table main, to everywhere by the loopback device
    route = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 3, 253, 1, 0) + struct.pack("=HHI", 8, 4, 1)
    rule = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 1, 0)
    create = 0x5 | 0x600
    attempt("take lo down", lambda: send(16, link))
    attempt("add an address", lambda: send(20, address, create))
    attempt("delete the local route", lambda: send(25, route))
    attempt("add a route", lambda: send(24, route, create))
    attempt("add a rule", lambda: send(32, rule, create))
    attempt("add a device", lambda: send(16, struct.pack("=BxHiII", 0, 0, 0, 0, 0), create))


def namespaces():
    flags = {"user": 0x10000000, "net": 0x40000000, "mount": 0x20000, "pid": 0x20000000, "uts": 0x4000000, "ipc": 0x8000000, "cgroup": 0x2000000, "user and net": 0x50000000}
    for name, flag in flags.items():
        say(f"unshare {name}", call("unshare", flag))
        # A null stack would be the child's; it never gets that far.
        say(f"clone {name}", call("clone", flag | 17, 0, 0, 0, 0))
    say("clone3", call("clone3", 0, 0))
    for name in ["net", "user", "mnt", "pid"]:
        for owner in ["self", "1"]:
            def enter(path=f"/proc/{owner}/ns/{name}"):
                fd = os.open(path, os.O_RDONLY)
                return call("setns", fd, 0)
            attempt(f"setns {owner} {name}", enter)
    for name in ["mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "mount_setattr"]:
        say(name, call(name, 0, 0, 0, 0, 0))


def others():
    say("ptrace attach 1", call("ptrace", 16, 1, 0, 0))
    say("ptrace seize 1", call("ptrace", 0x4206, 1, 0, 0))
    say("ptrace traceme", call("ptrace", 0, 0, 0, 0))
    say("process_vm_readv 1", call("process_vm_readv", 1, 0, 0, 0, 0, 0))
    say("process_vm_writev 1", call("process_vm_writev", 1, 0, 0, 0, 0, 0))
    say("pidfd_getfd", call("pidfd_getfd", 0, 0, 0))
    for name in ["mem", "environ", "maps", "fd", "fdinfo", "root", "cwd", "exe", "task/1/mem", "map_files", "stack", "syscall", "io", "auxv"]:
        path = f"/proc/1/{name}"

        def read():
            if os.path.isdir(path):
                os.listdir(path)
            else:
                with open(path, "rb") as file:
                    file.read(1)

        attempt(f"read {path}", read)
        attempt(f"write {path}", lambda: os.close(os.open(path, os.O_WRONLY)))
    names = sorted(open(f"/proc/{pid}/comm").read().strip() for pid in os.listdir("/proc") if pid.isdigit())
    say("processes", " ".join(names))
    for name in ["keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd", "init_module", "kexec_load", "open_by_handle_at"]:
        say(name, call(name, 0, 0, 0, 0, 0))


def captured(address):
    """An ordinary socket stays as captured as before."""
    host, port = address.rsplit(":", 1)
    stream = socket.create_connection((host, int(port)), 5)
    stream.sendall(b"GET / HTTP/1.1\r\nHost: after.example\r\nConnection: close\r\n\r\n")
    answer = b""
    while part := stream.recv(4096):
        answer += part
    say("afterwards", "captured" if b"x-carboy-reason: address_not_allowed" in answer else repr(answer[:100]))


{"rings": rings, "families": lambda: (families(), route_messages()), "namespaces": namespaces, "others": others}[sys.argv[1]]()
captured(sys.argv[2])
