"""Ports to listen on: the ones asked for, checked, or free ones."""

from __future__ import annotations

import dataclasses
import errno
import random
import socket
from pathlib import Path

from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.settings import Ports

_LOWEST_FREE = 10_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_ATTEMPTS = 1000


def claim_ports(host: str, ports: Ports) -> Ports:
    """Return the ports to listen on at ``host``, each free right now; a 0 becomes a free one.

    Raises:
        LaunchError: a port is taken, asked for twice or not allowed, or ``host`` is not of this machine.

    """
    claimed: dict[str, int] = {}
    for field in dataclasses.fields(Ports):
        port = getattr(ports, field.name)
        if port and port in claimed.values():
            raise LaunchError(f"port {port} is asked for twice; HTTP, gRPC and metrics each need their own")
        if port:
            _check(host, field.name, port)
        claimed[field.name] = port or _free_port(host, {*dataclasses.astuple(ports), *claimed.values()})
    return Ports(**claimed)


def _check(host: str, use: str, port: int) -> None:
    try:
        _bind(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} for {use} is taken; free it, or choose another with --{use}-port"
        elif error.errno == errno.EACCES:
            reason = f"port {port} for {use} needs more rights than this process has; choose one from 1024 up"
        else:
            reason = f"cannot listen on {host} port {port}: {error.strerror}"
        raise LaunchError(reason) from error


def _free_port(host: str, avoided: set[int]) -> int:
    """Return a free port below those the kernel gives outgoing connections, which could take it while models load."""
    highest = int(_EPHEMERAL_RANGE.read_text().split()[0])
    for _ in range(_ATTEMPTS):
        port = random.randrange(_LOWEST_FREE, max(highest, _LOWEST_FREE + 1000))
        if port in avoided:
            continue
        try:
            _bind(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise LaunchError(f"cannot listen on {host}: {error.strerror}") from error
        else:
            return port
    raise LaunchError(f"no free port found on {host}")


def _bind(host: str, port: int) -> None:
    """Bind and let go; a port that only lingers from connections long closed counts as free, as it does to Triton."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
