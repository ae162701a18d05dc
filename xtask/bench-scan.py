"""A mitmproxy script for `cargo xtask bench proxy`: looks at every body for some of what carboy looks for.

Much less than carboy does: the plain spellings alone, bodies as a whole, nothing unpacked, no log. What it takes is
therefore the least that scanning costs there.
"""

import base64
import re

from mitmproxy import http

KEY = b"bench-5f0c3a9e17d24b6885"
KNOWN = [KEY, base64.b64encode(KEY)[:-2], KEY.hex().encode(), KEY[::-1]]
TOKENS = [
    re.compile(pattern)
    for pattern in [
        rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
        rb"\bgh[oprsu]_[0-9A-Za-z]{36}",
        rb"\bgithub_pat_[0-9A-Za-z_]{22,}",
        rb"\bglpat-[0-9A-Za-z_-]{20}",
        rb"\bsk-ant-[0-9A-Za-z_-]{20,}",
        rb"\bsk-(?:proj-)?[0-9A-Za-z_-]{20,}",
        rb"\bxox[abeprs]-[0-9A-Za-z-]{10,}",
        rb"\bAIza[0-9A-Za-z_-]{35}",
        rb"\bnpm_[0-9A-Za-z]{36}",
        rb"\beyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}\.",
        rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    ]
]
PHRASES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in [
        rb"(?:system|hidden|initial)\s+(?:prompt|instructions?)|your\s+(?:instructions|guidelines)|api[ _-]?keys?|private\s+keys?",
        rb"(?:ignore|disregard|forget|override)\s+(?:all\s+)?(?:the\s+|your\s+)?(?:previous|prior|above|earlier)|you\s+are\s+now"
        rb"|do\s+anything\s+now|(?:developer|debug|god)\s+mode|pretend\s+(?:you|to\s+be)",
    ]
]


def request(flow: http.HTTPFlow) -> None:
    body = flow.request.raw_content or b""
    if any(known in body for known in KNOWN) or any(token.search(body) for token in TOKENS):
        flow.response = http.Response.make(403)


def response(flow: http.HTTPFlow) -> None:
    body = flow.response.raw_content or b""
    if any(known in body for known in KNOWN) or all(phrase.search(body) for phrase in PHRASES):
        flow.response = http.Response.make(403)
