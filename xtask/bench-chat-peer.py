"""The service that `cargo xtask bench chat` measures carboy beside: the shape of `carboy serve bookly`, in FastAPI.

The same routes, signed cookie, limits by address and session, checks of a message, conversation with the same model, loop of
tools, answers as JSON, fields of every answer, and conversations in SQLite that are on the disk before the answer is. It
scans nothing, holds and meters nothing, grounds nothing, and keeps no log but uvicorn's: what carboy takes for that is
what the bench is about. What prompt, tools and policies are is read from the file that `PEER_SPEC` names.
"""

import asyncio
import base64
import collections
import hashlib
import hmac
import json
import os
import secrets
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse

with open(os.environ["PEER_SPEC"], encoding="utf-8") as file:
    SPEC = json.load(file)
SECRET = os.environ["PEER_SECRET"].encode()
DATABASE = os.environ["PEER_DATABASE"]
MODEL_URL = os.environ["PEER_MODEL_URL"]
MODEL_KEY = os.environ["PEER_MODEL_KEY"]
COOKIE = "peer"
MESSAGE_CHARS_MAX = 2_000
BODY_BYTES_MAX = 28_096
TURNS_MAX = 50
TOOL_ITERATIONS_MAX = 6
ATTEMPTS_MAX = 3
SESSIONS_MAX = 10_000
SESSION_IDLE_S = 1_800
ADDRESS_PER_MINUTE = SESSION_PER_MINUTE = SPEC["per_minute"]
FIELDS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=()"),
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
]


class Refused(Exception):
    """What a client did wrong, or what we could not do."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Store:
    """Conversations in SQLite: one connection, one thread, `synchronous=FULL`."""

    def __init__(self, path: str):
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.path = path
        self.connection = None

    def _open(self):
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS session (key BLOB PRIMARY KEY, version INTEGER NOT NULL,"
            " used_ms INTEGER NOT NULL, bytes BLOB NOT NULL) STRICT"
        )
        connection.execute("CREATE INDEX IF NOT EXISTS session_used ON session (used_ms)")
        self.connection = connection

    def _load(self, key: bytes):
        if self.connection is None:
            self._open()
        found = self.connection.execute("SELECT version, used_ms, bytes FROM session WHERE key = ?", (key,)).fetchone()
        if found is None or time.time() * 1000 - found[1] > SESSION_IDLE_S * 1000:
            return 0, None
        return found[0], found[2]

    def _save(self, key: bytes, version: int, body: bytes):
        now = int(time.time() * 1000)
        run = self.connection.execute
        run("BEGIN IMMEDIATE")
        try:
            if version == 0:
                run("INSERT OR REPLACE INTO session VALUES (?, 1, ?, ?)", (key, now, body))
                (count,) = run("SELECT count(*) FROM session").fetchone()
                if count > SESSIONS_MAX:
                    oldest = "SELECT key FROM session ORDER BY used_ms LIMIT ?"
                    run(f"DELETE FROM session WHERE key IN ({oldest})", (count - SESSIONS_MAX,))
            else:
                changed = run(
                    "UPDATE session SET version = version + 1, used_ms = ?, bytes = ? WHERE key = ? AND version = ?",
                    (now, body, key, version),
                )
                if changed.rowcount != 1:
                    raise Refused(500, "unavailable", "the conversation is at work elsewhere")
            run("COMMIT")
        except BaseException:
            run("ROLLBACK")
            raise

    def _remove(self, key: bytes):
        if self.connection is not None:
            self.connection.execute("DELETE FROM session WHERE key = ?", (key,))

    async def load(self, key):
        return await asyncio.get_running_loop().run_in_executor(self.thread, self._load, key)

    async def save(self, key, version, body):
        await asyncio.get_running_loop().run_in_executor(self.thread, self._save, key, version, body)

    async def remove(self, key):
        await asyncio.get_running_loop().run_in_executor(self.thread, self._remove, key)


class Limiter:
    """Exact sliding windows of a minute, each worker its own."""

    def __init__(self):
        self.seen = {}

    def admit(self, rules):
        now = time.monotonic()
        windows = []
        for key, most in rules:
            window = self.seen.setdefault(key, collections.deque())
            while window and now - window[0] >= 60:
                window.popleft()
            if len(window) >= most:
                raise Refused(429, "rate_limited", f"at most {most} requests per minute")
            windows.append(window)
        for window in windows:
            window.append(now)


store = Store(DATABASE)
limiter = Limiter()
locks = collections.OrderedDict()
model = None


@asynccontextmanager
async def lifespan(_app):
    global model
    limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
    async with httpx.AsyncClient(timeout=30, limits=limits, trust_env=False) as client:
        model = client
        yield


app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)


class Fields:
    """The same fields on every answer."""

    def __init__(self, inner):
        self.inner = inner

    async def __call__(self, scope, receive, send):
        async def with_fields(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *FIELDS]
            await send(message)

        await self.inner(scope, receive, with_fields if scope["type"] == "http" else send)


app.add_middleware(Fields)


@app.exception_handler(Refused)
async def refused(_request, why: Refused):
    return JSONResponse({"error": {"code": why.code, "message": why.message}}, status_code=why.status)


def sign(name: str) -> str:
    mac = hmac.new(SECRET, name.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def session_of(request: Request):
    """The session of the cookie, or a new one, and whether it is new."""
    name, _, signature = request.cookies.get(COOKIE, "").partition(".")
    if name and hmac.compare_digest(signature, sign(name)):
        return name, False
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode(), True


def answer(name: str, new: bool, value) -> JSONResponse:
    response = JSONResponse(value)
    if new:
        response.set_cookie(COOKIE, f"{name}.{sign(name)}", httponly=True, samesite="lax", path="/")
    return response


def lock_of(key: bytes) -> asyncio.Lock:
    lock = locks.setdefault(key, asyncio.Lock())
    locks.move_to_end(key)
    while len(locks) > 4_096:
        locks.popitem(last=False)
    return lock


def clean(message) -> str:
    if not isinstance(message, str):
        raise Refused(400, "invalid_request", "the body has no text `message`")
    text = "".join(c for c in message if c.isprintable() or c in "\n\t").strip()
    if not text or len(text) > MESSAGE_CHARS_MAX:
        raise Refused(400, "invalid_message", f"a message has 1 to {MESSAGE_CHARS_MAX} characters")
    return text


def called(name: str, arguments) -> str:
    """The one tool that the bench's questions need: the policies, word for word."""
    topic = arguments.get("topic") if isinstance(arguments, dict) else None
    if name == "lookup_policy" and topic in SPEC["policies"]:
        return SPEC["policies"][topic]
    return json.dumps({"error": {"code": "unknown_tool"}})


async def ask(history):
    body = {**SPEC["request"], "messages": history}
    fields = {"x-api-key": MODEL_KEY, "anthropic-version": "2023-06-01"}
    for attempt in range(ATTEMPTS_MAX):
        try:
            sent = await model.post(MODEL_URL, json=body, headers=fields)
            break
        except httpx.TransportError as error:
            if attempt + 1 == ATTEMPTS_MAX:
                raise Refused(503, "model_unreachable", f"the model cannot be reached: {error!r}") from None
    if sent.status_code != 200:
        raise Refused(502, "model_status", f"the model answered {sent.status_code}")
    return sent.json()["content"]


async def converse(history) -> str:
    for _ in range(TOOL_ITERATIONS_MAX):
        blocks = await ask(history)
        history.append({"role": "assistant", "content": blocks})
        calls = [block for block in blocks if block["type"] == "tool_use"]
        if not calls:
            return "".join(block["text"] for block in blocks if block["type"] == "text").strip()
        results = [
            {"type": "tool_result", "tool_use_id": c["id"], "content": called(c["name"], c["input"])} for c in calls
        ]
        history.append({"role": "user", "content": results})
    raise Refused(500, "tool_iterations_max", "the model did not come to an end")


@app.get("/health")
async def health():
    return {"status": "ok"}


@app.get("/")
async def start():
    return RedirectResponse("static/index.html")


@app.post("/api/chat")
async def chat(request: Request):
    raw = await request.body()
    if len(raw) > BODY_BYTES_MAX:
        raise Refused(413, "too_large", f"the body is longer than {BODY_BYTES_MAX} octets")
    try:
        said = json.loads(raw)
    except ValueError:
        raise Refused(400, "invalid_request", "the body is no JSON object") from None
    if not isinstance(said, dict):
        raise Refused(400, "invalid_request", "the body is no JSON object")
    name, new = session_of(request)
    address = request.client.host if request.client else ""
    limiter.admit([(f"ip:{address}", ADDRESS_PER_MINUTE), (f"session:{name}", SESSION_PER_MINUTE)])
    text = clean(said.get("message"))
    key = hashlib.sha256(name.encode()).digest()
    async with lock_of(key):
        version, kept = await store.load(key)
        state = json.loads(kept) if kept else {"history": [], "turns": 0, "lines": []}
        if state["turns"] >= TURNS_MAX:
            raise Refused(409, "session_over", f"this conversation has had its {TURNS_MAX} turns")
        state["turns"] += 1
        state["history"].append({"role": "user", "content": [{"type": "text", "text": text}]})
        state["lines"].append({"who": "person", "text": text, "at_ms": int(time.time() * 1000)})
        reply = await converse(state["history"])
        state["lines"].append({"who": "agent", "text": reply, "at_ms": int(time.time() * 1000)})
        await store.save(key, version, json.dumps(state, separators=(",", ":")).encode())
    return answer(name, new, {"reply": reply, "withheld": False, "turn": state["turns"]})


@app.get("/api/transcript")
async def transcript(request: Request):
    name, new = session_of(request)
    _, kept = await store.load(hashlib.sha256(name.encode()).digest())
    return answer(name, new, {"lines": json.loads(kept)["lines"] if kept else [], "under_way": []})


@app.delete("/api/transcript")
async def forget(request: Request):
    name, new = session_of(request)
    await store.remove(hashlib.sha256(name.encode()).digest())
    return answer(name, new, {"forgotten": True})
