# Each library asks for what is allowed, for what carries a secret, and for a host that no route names, and says in a line
# what came of it: `library|what|outcome`. Nothing in here knows of carboy.
import asyncio
import sys

import aiohttp
import grpc
import httpx
import requests
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

SECRET = sys.argv[1]
WAIT_S = 20


def with_requests(host, text):
    answer = requests.post(f"https://{host}/echo?requests", data=text, timeout=WAIT_S)
    return f"{answer.status_code} {answer.text}"


def with_httpx(host, text):
    with httpx.Client(http2=True, timeout=WAIT_S) as client:
        answer = client.post(f"https://{host}/echo?httpx", content=text)
        return f"{answer.status_code} {answer.text}"


def with_aiohttp(host, text):
    async def ask():
        async with aiohttp.ClientSession() as session:
            async with session.post(f"https://{host}/echo?aiohttp", data=text) as answer:
                return f"{answer.status} {await answer.text()}"

    return asyncio.run(ask())


def with_aiohttp_socket(host, text):
    async def ask():
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"https://{host}/socket") as socket:
                await socket.send_str(text)
                message = await socket.receive(timeout=WAIT_S)
                return f"{message.type.name} {message.data} {message.extra}"

    return asyncio.run(ask())


def with_websockets(host, text):
    with connect(f"wss://{host}/socket", open_timeout=WAIT_S) as socket:
        try:
            # In two fragments, and then as octets.
            socket.send([text[:7], text[7:]])
            first = socket.recv(timeout=WAIT_S)
            socket.send(text.encode())
            return f"{first} {socket.recv(timeout=WAIT_S).decode()}"
        except ConnectionClosed as closed:
            return f"closed {closed.rcvd.code} {closed.rcvd.reason}"


def channel(host):
    return grpc.secure_channel(f"{host}:443", grpc.ssl_channel_credentials())


def unary(host, text, compression=None):
    with channel(host) as open_channel:
        call = open_channel.unary_unary("/carboy.sim.Echo/Echo")
        answer, done = call.with_call(text.encode(), timeout=WAIT_S, compression=compression)
        return f"{done.code().name} {answer.decode()} {dict(done.trailing_metadata())}"


def packed(host, text):
    return unary(host, text, grpc.Compression.Gzip)


def server_stream(host, text):
    with channel(host) as open_channel:
        call = open_channel.unary_stream("/carboy.sim.Echo/Repeat")(text.encode(), timeout=WAIT_S)
        return f"{[part.decode() for part in call]} {call.code().name} {dict(call.trailing_metadata())}"


# A dialogue: the next message goes when the last one has come back.
def both_stream(host, text):
    import queue

    waiting = queue.Queue()

    def messages():
        while (message := waiting.get()) is not None:
            yield message

    with channel(host) as open_channel:
        call = open_channel.stream_stream("/carboy.sim.Echo/Echo")(messages(), timeout=WAIT_S)
        back = []
        try:
            for n in range(3):
                waiting.put(f"{n}".encode() if n < 2 else text.encode())
                back.append(next(call).decode())
        finally:
            waiting.put(None)
        rest = list(call)
        return f"{back} {rest} {call.code().name} {dict(call.trailing_metadata())}"


# What the service itself answers with a status passes as it is.
def failing(host, text):
    with channel(host) as open_channel:
        open_channel.unary_unary("/carboy.sim.Echo/Fail")(b"x", timeout=WAIT_S)


def attempt(client, what, call, host, text):
    try:
        outcome = call(host, text)
    except grpc.RpcError as error:
        outcome = f"{error.code().name} {error.details()} {dict(error.trailing_metadata() or ())}"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    print(f"{client}|{what}|" + outcome.replace("\n", " "), flush=True)


for client, call in {
    "requests": with_requests,
    "httpx": with_httpx,
    "aiohttp": with_aiohttp,
    "aiohttp socket": with_aiohttp_socket,
    "websockets": with_websockets,
    "grpc unary": unary,
    "grpc server stream": server_stream,
    "grpc both stream": both_stream,
}.items():
    attempt(client, "allowed", call, "notes.example", f"hello from {client}")
    attempt(client, "secret", call, "notes.example", f"{client}, {SECRET}")
    attempt(client, "denied", call, "denied.example", "anybody there?")
attempt("grpc unary", "packed", packed, "notes.example", f"packed, {SECRET}")
attempt("grpc unary", "failing", failing, "notes.example", "")
