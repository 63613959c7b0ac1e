"""Refuse requests that name a foreign host, as MLflow's server does.

A web page may let its own name point at this machine (DNS rebinding). To a browser, the server's
answers then belong to that page, which can read them. The browser still sends the page's name, so
it is enough to answer to known ones. Ports don't matter, and an address always means itself.

Starlette's TrustedHostMiddleware knows no private networks, and redirects to `www.` names.

There is no check of `Origin`, which MLflow's server has for requests that change something: no
request changes anything here, and without CORS headers a page from elsewhere can't read an answer.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence
from fnmatch import fnmatchcase

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.errors import InputError

# A name, as clients send it, or an address; and a port.
HOST = re.compile(
    r"(\[[\da-f:.*]+(?:%\w+)?\]|[\w*-]+(?:\.[\w*-]+)*\.?)(?::(?:\d+|\*))?", re.ASCII | re.IGNORECASE
)
UNGUARDED = "/health"  # it tells nothing, and load balancers ask for it by whatever name


class KnownHosts:
    """ASGI middleware that answers 403 unless the `Host` header is one of `hosts`, or private."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application do so."""
        app = self.app
        if scope["type"] == "http" and scope["path"] != UNGUARDED:
            host = Headers(scope=scope).get("host", "")
            if not is_known(host, self.hosts):
                app = JSONResponse({"error": _refusal(host)}, 403)
        await app(scope, receive, send)


def known_hosts(allowed: str, listening: str) -> list[str]:
    """The names to answer to: this machine's, the one it is `listening` at, and `allowed` ones.

    allowed: separated by commas, `*` stands for anything. Raises InputError for what is no name.
    """
    own = f"[{listening}]" if ":" in listening else listening
    named = [name.strip() for name in allowed.split(",") if name.strip()]
    for name in named:
        if not HOST.fullmatch(name):
            raise InputError(
                f"allowed_hosts has {name!r}; it must be host names such as classify.example.org,"
                " or xn--mnchen-3ya.de for münchen.de, separated by commas"
            )
    names = [_name(host) for host in ("localhost", socket.gethostname(), own, *named)]
    return [name for name in names if name]  # without one, requests without a name would match


def is_known(host: str, hosts: Sequence[str]) -> bool:
    """Whether a `Host` header is a private address, or matches one of `hosts`."""
    name = _name(host)
    # In a pattern, a bracket would begin a set of characters.
    if any(fnmatchcase(name, known.replace("[", "[[]")) for known in hosts):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_private
    except ValueError:
        return False


def _name(host: str) -> str:
    """The name without port, as names are compared; empty if it is none."""
    parts = HOST.fullmatch(host.lower())
    return parts[1].removesuffix(".") if parts else ""


def _refusal(host: str) -> str:
    if not host:
        return "the request names no host; send a Host header"
    return (
        f"{host[:100]!r} is not known as a name of this server, as in an attack by DNS rebinding;"
        " if it is one, name it with --allowed-hosts when the server is started"
    )
