"""Run the server: listen, answer, and stop when what has begun is answered."""

import socket
import sys

import torch
import uvicorn

from pipeline.errors import InputError, MachineError
from pipeline.interruption import Interrupted
from pipeline.machine import bound_socket, usable_threads
from pipeline.models.naming import model_uri
from pipeline.serving.app import create_app
from pipeline.serving.hosts import known_hosts
from pipeline.serving.served import ALIAS, Following

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Seconds that requests have to end after SIGTERM.
GRACE_SECONDS = 30


def serve(reference: str, host: str, port: int, follow: bool, allowed_hosts: str) -> None:
    """Serve the model that `reference` names until SIGTERM or Ctrl-C.

    With `follow`, another version takes over when the alias in `reference` moves. Requests may name
    this machine and `allowed_hosts`, separated by commas.

    Raises InputError if there is no such model, no alias to follow, or no such name; MachineError
    if the port is taken.
    """
    uri = model_uri(reference)
    if follow and not ALIAS.fullmatch(uri):
        raise InputError(f"{reference!r} has no alias to follow; name one: NAME@ALIAS")
    hosts = known_hosts(allowed_hosts, host)
    listener = _listener(host, port)
    following = Following(uri)
    torch.set_num_threads(usable_threads())
    config = uvicorn.Config(
        create_app(following, follow, hosts),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    print(f"{following.served.facts['uri']} is served at {address} until Ctrl-C", flush=True)
    if host not in LOOPBACK:
        print("warning: whoever reaches this machine can use the server", file=sys.stderr)
    try:
        uvicorn.Server(config).run([listener])
    except Interrupted as stop:  # uvicorn raises the signal again when it has ended
        print(stop)
    except OSError as error:  # another server listens there since
        raise _unusable(host, port, error) from None


def _listener(host: str, port: int) -> socket.socket:
    try:
        return bound_socket(host, port)
    except socket.gaierror:
        raise InputError(f"host is {host!r}; it must be an address of this machine") from None
    except OSError as error:
        raise _unusable(host, port, error) from None


def _unusable(host: str, port: int, error: OSError) -> MachineError:
    reason = error.strerror or error
    return MachineError(f"port {port} of {host} can't be used ({reason}); choose another by --port")
