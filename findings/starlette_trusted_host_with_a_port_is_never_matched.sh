#!/bin/sh
# GUESS: TrustedHostMiddleware compares the Host header with its list. A server on port 8000 is
#   allowed by "localhost:8000", and one on an IPv6 address by "::1".
# REAL: The port is taken off the header, but not off the list: an entry with a port is accepted and
#   never matches, so every request gets 400. The brackets of an IPv6 address stay on the header, so
#   "::1" never matches either, "[::1]" does. An entry "www.example.org" also answers "example.org",
#   by a redirect. MLflow's list (`--allowed-hosts`) is the other way round: a name without a port
#   does not match a header that has one. A list can't be copied from one server to the other.
# VERSIONS: starlette 1.10.0 (anyio 4.16.0), Python 3.11.7
# DATE: 2026-11-29
# OUTPUT SEEN:
#   allowed localhost:8000   asked localhost:8000   400
#   allowed localhost        asked localhost:8000   200
#   allowed ::1              asked [::1]:8000       400
#   allowed [::1]            asked [::1]:8000       200
#   allowed www.example.org  asked example.org      307
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check starlette==1.10.0 anyio==4.16.0

"$folder/venv/bin/python" - <<'PYTHON'
import asyncio
import sys

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse


async def status(allowed, host):
    """The status of a request with a Host header, if one host is allowed."""
    app = TrustedHostMiddleware(PlainTextResponse("hello"), allowed_hosts=[allowed])
    headers = [(b"host", host.encode())]
    scope = {"type": "http", "method": "GET", "scheme": "http", "path": "/", "query_string": b""}
    sent = []

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    await app({**scope, "headers": headers, "server": ("localhost", 8000)}, receive, send)
    return sent[0]["status"]


expected = {
    ("localhost:8000", "localhost:8000"): 400,
    ("localhost", "localhost:8000"): 200,
    ("::1", "[::1]:8000"): 400,
    ("[::1]", "[::1]:8000"): 200,
    ("www.example.org", "example.org"): 307,
}
seen = {}
for allowed, host in expected:
    seen[allowed, host] = asyncio.run(status(allowed, host))
    print(f"allowed {allowed:16} asked {host:16} {seen[allowed, host]}")
sys.exit(0 if seen == expected else "this has changed")
PYTHON
