"""Runs a list of attacks from inside a bottle and says what came of each.

Reads a JSON list from the file that is named, runs several at a time, and prints one JSON line for each. It trusts every
certificate, has no manners, and judges nothing: what has to come of an attack is known outside.
"""

import base64
import concurrent.futures
import ctypes
import errno
import gzip
import json
import os
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
import zlib

NAME_SERVER = ("198.18.0.1", 53)
AT_ONCE = 8
CONNECT_WAIT_S = 4.0
PROGRAM_WAIT_S = 20
RECEIVED_BYTES_MAX = 64 * 1024


# Bytes

def octets(piece):
    """A piece of what is sent: a text (each character one byte), or a way to make one."""
    if isinstance(piece, str):
        return piece.encode("latin-1")
    if isinstance(piece, list):
        return b"".join(octets(part) for part in piece)
    (how, what), = piece.items()
    if how == "utf8":
        return what.encode()
    if how == "hex":
        return bytes.fromhex(what)
    if how == "times":
        return octets(what[0]) * what[1]
    if how == "sized":
        body = octets(what[1])
        return octets(what[0].replace("{length}", str(len(body)))) + body
    if how == "chunks":
        body, size = octets(what[0]), what[1]
        parts = [body[at:at + size] for at in range(0, len(body), size)]
        return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    if how == "coded":
        return coded(what[0], octets(what[1]))
    if how == "h2":
        return frames(what)
    if how == "ws":
        return message(what)
    raise ValueError(how)


def coded(codings, body):
    for coding in codings.split(","):
        body = CODINGS[coding](body)
    return body


def brotli(body):
    """One meta-block that is not compressed (RFC 7932, 9.2), which is all that a small body needs."""
    last = len(body) - 1
    return bytes([0x0B | (last & 1) << 7, last >> 1 & 0xFF, 0x80 | last >> 9]) + body + b"\x03"


def zstd(body):
    """A frame of raw blocks (RFC 8878, 3.1.1)."""
    head = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(body))
    return head + struct.pack("<I", len(body) << 3 | 1)[:3] + body


def raw_deflate(body):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


CODINGS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw": raw_deflate,
    "br": brotli,
    "zstd": zstd,
    "base64": base64.b64encode,
    "hex": lambda body: body.hex().encode(),
    "junk": lambda body: body + b"\x00junk behind the end",
    "half": lambda body: body[:len(body) // 2],
    "members": lambda body: gzip.compress(body[:7]) + gzip.compress(body[7:]),
}


def field(name, value):
    """A literal without indexing and without Huffman coding (RFC 7541, 6.2.2)."""
    def text(octets_of):
        length = len(octets_of)
        if length < 127:
            return bytes([length]) + octets_of
        length -= 127
        out = [127]
        while length >= 128:
            out.append(length % 128 + 128)
            length //= 128
        return bytes(out + [length]) + octets_of
    return b"\x00" + text(octets(name)) + text(octets(value))


KINDS = {"data": 0, "headers": 1, "priority": 2, "reset": 3, "settings": 4, "push": 5, "ping": 6, "goaway": 7, "window": 8, "continuation": 9}


def frames(these):
    """Frames by hand: `["preface"]`, or kind, stream, flags and what is in it."""
    out = b""
    for kind, *rest in these:
        if kind == "preface":
            out += b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
            continue
        stream, flags, what = rest
        if kind in ("headers", "continuation") and isinstance(what, list):
            payload = b"".join(field(name, value) for name, value in what)
        else:
            payload = octets(what)
        number = KINDS.get(kind, kind)
        out += struct.pack(">I", len(payload))[1:] + bytes([number, flags]) + struct.pack(">I", stream) + payload
    return out


def message(what):
    """A frame of a WebSocket (RFC 6455, 5.2), masked as a client's has to be unless it says otherwise."""
    payload = octets(what["of"])
    first = (0x80 if what.get("end", True) else 0) | what.get("bits", 0) << 4 | what.get("code", 1)
    masked = what.get("masked", True)
    top = 0x80 if masked else 0
    if len(payload) < 126:
        head = bytes([first, top | len(payload)])
    else:
        head = bytes([first, top | 126]) + struct.pack(">H", len(payload))
    if not masked:
        return head + payload
    mask = b"\x11\x22\x33\x44"
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


# Names

def question(name, kind):
    out = b"\x12\x34\x01\x00\0\1\0\0\0\0\0\0"
    for label in name.split("."):
        text = octets(label)
        out += bytes([len(text)]) + text
    return out + b"\0" + struct.pack(">HH", kind, 1)


def look_up(name, kind=1):
    """The first address for a name, as a resolver would ask for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(CONNECT_WAIT_S)
        asking.sendto(question(name, kind), NAME_SERVER)
        answer = asking.recv(4096)
    if answer[7] == 0:
        raise OSError(errno.ENOENT, "no address")
    size = 4 if kind == 1 else 16
    return socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, answer[-size:])


def place(to, port):
    """Where to connect: a name is looked up, an address taken as it is, `%name` looked up for IPv6."""
    if to.startswith("%"):
        return socket.AF_INET6, (look_up(to[1:], 28), port)
    try:
        socket.inet_pton(socket.AF_INET, to)
        return socket.AF_INET, (to, port)
    except OSError:
        pass
    address, _, zone = to.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6, address)
        return socket.AF_INET6, (address, port, 0, socket.if_nametoindex(zone) if zone else 0)
    except OSError:
        return socket.AF_INET, (look_up(to), port)


# Connections

class Line:
    """A connection, with or without TLS over it."""

    def __init__(self, raw, how):
        self.raw = raw
        self.tls = None
        if how is None:
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if how.get("alpn"):
            context.set_alpn_protocols(how["alpn"])
        self.coming, self.going = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.coming, self.going, server_hostname=how.get("sni"))
        hello = True
        deadline = time.monotonic() + CONNECT_WAIT_S
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.flush(how if hello else {})
                hello = False
                self.take(deadline)
        self.flush({})

    def flush(self, how):
        out = self.going.read()
        if how.get("swap"):
            before, after = (octets(part) for part in how["swap"])
            assert len(before) == len(after) and before in out
            out = out.replace(before, after)
        if how.get("records"):
            out = again(out, how["records"])
        for part in ([out[at:at + how["writes"]] for at in range(0, len(out), how["writes"])] if how.get("writes") else [out]):
            self.raw.sendall(part)

    def take(self, deadline):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self.raw], [], [], left)[0]:
            raise TimeoutError("silence in a handshake")
        got = self.raw.recv(65536)
        if not got:
            raise ConnectionError("closed in a handshake")
        self.coming.write(got)

    def send(self, out):
        if self.tls is None:
            self.raw.sendall(out)
        else:
            self.tls.write(out)
            self.flush({})

    def receive(self, wait):
        """Some bytes; none at the end; `None` for silence."""
        deadline = time.monotonic() + wait
        while True:
            if self.tls is not None:
                try:
                    return self.tls.read(65536)
                except ssl.SSLWantReadError:
                    pass
                except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                    return b""
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.raw], [], [], left)[0]:
                return None
            got = self.raw.recv(65536)
            if self.tls is None or not got:
                return got
            self.coming.write(got)


def again(records, size):
    """The same handshake in records of this size."""
    body, at = b"", 0
    while at < len(records):
        length = struct.unpack(">H", records[at + 3:at + 5])[0]
        body += records[at + 5:at + 5 + length]
        at += 5 + length
    parts = [body[at:at + size] for at in range(0, len(body), size)]
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(part)) + part for part in parts)


def tcp(attack):
    report = {"got": ""}
    got = b""
    quiet = attack.get("quiet", 1500) / 1000
    family, address = place(attack["to"], attack["port"])
    raw = socket.socket(family, socket.SOCK_STREAM)
    raw.settimeout(CONNECT_WAIT_S)
    try:
        raw.connect(address)
        raw.settimeout(None)
        report["connected"] = True
        line = Line(raw, attack.get("tls"))
        report["secure"] = line.tls is not None
        for piece in attack.get("send", []):
            if isinstance(piece, dict) and "wait" in piece:
                time.sleep(piece["wait"] / 1000)
            elif isinstance(piece, dict) and "until" in piece:
                while octets(piece["until"]) not in got:
                    more = line.receive(quiet)
                    if not more:
                        raise ConnectionError(f"closed or silent before {piece['until']!r}")
                    got += more
            elif isinstance(piece, dict) and "tls" in piece:
                line = Line(line.raw, piece["tls"]) if line.tls is None else inner(line, piece["tls"])
            else:
                line.send(octets(piece))
        while len(got) < RECEIVED_BYTES_MAX:
            more = line.receive(quiet)
            if more is None:
                report["silent"] = True
                break
            if not more:
                report["ended"] = True
                break
            got += more
            if attack.get("enough") and octets(attack["enough"]) in got:
                break
    finally:
        report["got"] = got.decode("latin-1")
        attack["report"] = report
        raw.close()
    return report


def inner(line, how):
    raise ValueError("no TLS within TLS")


def udp(attack):
    family, address = place(attack["to"], attack["port"])
    with socket.socket(family, socket.SOCK_DGRAM) as sending:
        sending.settimeout(attack.get("quiet", 1500) / 1000)
        sending.connect(address)
        started = time.monotonic()
        for piece in attack["send"]:
            sending.send(octets(piece))
        try:
            return {"got": sending.recv(65536).decode("latin-1")}
        except OSError as error:
            error.after_ms = int((time.monotonic() - started) * 1000)
            raise


def dns(attack):
    """One query, whatever its name and type; `over` says by which way."""
    server = (attack.get("server", NAME_SERVER[0]), attack.get("port", 53))
    query = octets(attack["raw"]) if "raw" in attack else question(attack["name"], attack.get("type", 1))
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    if attack.get("over") == "tcp":
        with socket.socket(family, socket.SOCK_STREAM) as asking:
            asking.settimeout(CONNECT_WAIT_S)
            asking.connect(server)
            asking.sendall(struct.pack(">H", len(query)) + query)
            got = asking.recv(65536)
            if not got:
                raise ConnectionError("closed")
            got = got[2:]
    else:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.settimeout(attack.get("quiet", 2000) / 1000)
            asking.connect(server)
            asking.send(query)
            got = asking.recv(65536)
    return {"got": got.decode("latin-1"), "code": got[3] & 15, "records": got[7]}


# Programs

def program(words):
    """Runs one in a group of its own, so that nothing of it is left."""
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        out, _ = child.communicate(timeout=PROGRAM_WAIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, _ = child.communicate()
        out += b"\n(timed out)"
    return {"got": out.decode("latin-1"), "code": child.returncode}


PRELUDE = """
import ctypes, errno, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == 'x86_64'
def call(x86, arm, *a):
    ctypes.set_errno(0)
    r = libc.syscall(ctypes.c_long(x86 if X86 else arm), *[ctypes.c_long(v) for v in a])
    print('done' if r >= 0 else errno.errorcode[ctypes.get_errno()])
    return r
def attempt(action):
    try:
        r = action()
        print('done' if r is None else r)
    except OSError as e:
        print(errno.errorcode.get(e.errno, str(e)))
"""


def sh(attack):
    return program(["/bin/sh", "-c", attack["run"]])


def py(attack):
    return program(["/usr/bin/python3", "-c", PRELUDE + attack["run"]])


WAYS = {"tcp": tcp, "udp": udp, "dns": dns, "sh": sh, "py": py}


def one(attack):
    try:
        report = WAYS[attack["do"]](attack)
    except (OSError, ssl.SSLError) as error:
        report = attack.get("report", {"got": ""})
        name = errno.errorcode.get(error.errno) if isinstance(error, OSError) and error.errno else None
        report["error"] = name or f"{type(error).__name__}: {error}"
        if hasattr(error, "after_ms"):
            report["after_ms"] = error.after_ms
    report["id"] = attack["id"]
    return report


def main():
    with open(sys.argv[1]) as file:
        attacks = json.load(file)
    together = [attack for attack in attacks if not attack.get("alone")]
    alone = [attack for attack in attacks if attack.get("alone")]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for report in pool.map(one, together):
            print(json.dumps(report), flush=True)
    for attack in alone:
        print(json.dumps(one(attack)), flush=True)


main()
