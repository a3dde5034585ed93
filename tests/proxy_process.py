"""Runs the deployment's nginx configuration for a test, on free ports, in front of given servers."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import programs
import psutil

PROXY = Path(__file__).parents[1] / "deploy/proxy"
NGINX = programs.find("nginx")
MISSING = programs.missing("nginx")


class ProxyProcess:
    """An nginx, from entering the context until leaving it.

    Args:
        work: an empty folder for it.
        servers: those behind it, with ``http_url`` and ``grpc_url``.
        site: which of the deployment's sites.

    """

    def __init__(self, work: Path, servers: Sequence, site: str = "plain") -> None:
        self._work, self._site, self._tls = work, work / "site", site == "tls"
        work.mkdir(parents=True, exist_ok=True)
        shutil.copytree(PROXY / site, self._site)
        self.http_port, self.grpc_port, self.health_port = _free_ports(3)
        # Its files go to a folder of the test's own, as those of two proxies must not meet.
        configuration = (PROXY / "nginx.conf").read_text().replace("/tmp/", f"{work}/")
        configuration = configuration.replace("listen 8082;", f"listen 127.0.0.1:{self.health_port};")
        (work / "nginx.conf").write_text(configuration)
        for kind, port in (("http", self.http_port), ("grpc", self.grpc_port)):
            listen = self._site / f"listen_{kind}.conf"
            words = listen.read_text().split(" ", 2)
            listen.write_text(" ".join([words[0], f"127.0.0.1:{port}{'' if len(words) > 2 else ';'}", *words[2:]]))
        self.point_at(servers)

    @property
    def http_url(self) -> str:
        """The HTTP endpoint's URL."""
        return f"{'https' if self._tls else 'http'}://localhost:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        """The gRPC endpoint as host:port."""
        return f"localhost:{self.grpc_port}"

    @property
    def health_url(self) -> str:
        """Where whoever runs it asks for its own health."""
        return f"http://127.0.0.1:{self.health_port}"

    @property
    def site(self) -> Path:
        """Its site's files."""
        return self._site

    def point_at(self, servers: Sequence) -> None:
        """Name the servers behind it; a running one has to be told with :meth:`reload`."""
        text = (PROXY / "plain/upstreams.conf").read_text()
        for kind in ("http", "grpc"):
            line = next(line for line in text.splitlines() if f"server triton:800{'01'[kind == 'grpc']}" in line)
            addresses = [getattr(server, f"{kind}_url").removeprefix("http://") for server in servers]
            lines = [line.replace(line.split()[1], address) for address in addresses]
            text = text.replace(line, "\n".join(lines))
        (self._site / "upstreams.conf").write_text(text)

    def __enter__(self) -> Self:
        directives = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
        command = [NGINX, "-e", "stderr", "-p", str(self._work), "-c", str(self._work / "nginx.conf"), "-g", directives]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self._listens():
            assert time.monotonic() < deadline, self.log_path.read_text()
            assert self._process.poll() is None, self.log_path.read_text()
            time.sleep(0.05)
        return self

    def __exit__(self, *_exception) -> None:
        self._process.terminate()
        self._process.wait(60)

    @property
    def log_path(self) -> Path:
        """What it logs: calls and errors."""
        return self._work / "nginx.log"

    def reload(self) -> None:
        """Have it read its configuration again, and wait until no call goes by the old one."""
        old = self._workers()
        self._process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 180  # more than calls under way are given
        while old & self._workers():
            assert time.monotonic() < deadline, self.log_path.read_text()
            time.sleep(0.05)

    def _workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self._process.pid).children()}

    def _listens(self) -> bool:
        for port in (self.http_port, self.grpc_port, self.health_port):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)):
                    return False
        return True


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
