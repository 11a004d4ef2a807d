"""The server behind `avse demo --serve`: a socket, the page, and a clean end on Ctrl-C."""

import ipaddress
import socket
from collections.abc import Callable
from functools import lru_cache, partial

import uvicorn

from avse.data.errors import InputError
from avse.serve.job import run_job
from avse.serve.page import application
from avse.zoo import load

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
GRACE = 3
"""s that open connections get when the server ends."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any free one.

    Raises:
        InputError: no such address on this machine, or a port that is taken or not allowed.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port {port}: give a whole number from 0 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot serve on {host}, port {port} ({reason}): give another --host or --port"
        ) from error


class _Server(uvicorn.Server):
    """A server that calls `started` when it answers, and ends cleanly on Ctrl-C from then on."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._tell_started()


def serve(host: str, port: int, seed: int, tell: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C, which raises `KeyboardInterrupt` once all is cleaned up.

    Args:
        host: address to listen on.
        port: 0 for any free one.
        seed: of every job.
        tell: told the address of the page when it can be opened.

    Raises:
        InputError: see `listening`.
    """
    with listening(host, port) as own:
        pairs = lru_cache(maxsize=None)(load)
        hosts = (*LOOPBACK_NAMES, host) if is_loopback(host) else ("*",)
        app = application(partial(run_job, load=pairs), hosts, seed)
        config = uvicorn.Config(
            app, log_level="warning", log_config=None, server_header=False, timeout_graceful_shutdown=GRACE
        )
        address = f"[{host}]" if ":" in host else host
        page = f"http://{address}:{own.getsockname()[1]}"
        _Server(config, lambda: tell(page)).run(sockets=[own])
