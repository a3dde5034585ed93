"""One run of ``tritonserver``: its command line, its log, its end."""

from __future__ import annotations

import collections
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ofa_serving.cores import usable_cores
from ofa_serving.launcher import tether
from ofa_serving.launcher.embedded import Installation
from ofa_serving.launcher.settings import Ports
from ofa_serving.telemetry.logs import LogFormat, json_of_triton
from ofa_serving.telemetry.origin import ID_HEADER, TRACE_PARAMETER
from ofa_serving.telemetry.spans import SERVICE

_LAST_LINES = 500
_ENDING_SECONDS = 5
"""For the last lines, on a machine that stands still, and the last processes; one that is left keeps the log open."""
_SPARE_THREADS = 16
"""A call between models holds a thread until it is answered, and whether a request is cancelled is asked on another."""

_FORWARDED = f"(?i)^{ID_HEADER}$"
_FORWARDED_TRACED = f"(?i)^({ID_HEADER}|{TRACE_PARAMETER})$"

_ADMINISTRATION = "model-repository,trace,logging"
_SHARED_MEMORY = "shared-memory"


def triton_command(
    installation: Installation,
    repositories: Sequence[Path],
    *,
    host: str,
    ports: Ports,
    region_prefix: str,
    start_timeout: int,
    exit_timeout: int,
    calls: int,
    gpu: bool,
    cache_mib: int = 0,
    tracing: Sequence[str] = (),
    shared_memory_key: str = "",
) -> list[str]:
    """Return the command line of a server that serves ``repositories`` and nothing else.

    ``calls`` is how many calls to its stages a public model may have under way; ``cache_mib`` the size of the cache for
    models that have one; ``tracing`` is what :func:`tracing_flags` returns.

    The interfaces that change the server or read its memory ask for a key that nobody is told; they cannot be switched
    off. ``shared_memory_key`` is what clients have to know that may register shared memory, if any may.

    Configurations are complete, so nothing is completed from the models: that would start each of them twice.
    """
    flags = {
        "backend-directory": installation.backends,
        "model-control-mode": "none",
        "exit-on-error": "true",
        "strict-readiness": "true",
        # More Python processes starting than there are cores starve each other, and Triton aborts on one that is late.
        "model-load-thread-count": usable_cores(),
        "exit-timeout-secs": exit_timeout,
        "http-address": host,
        "http-port": ports.http,
        "grpc-address": host,
        "grpc-port": ports.grpc,
        "metrics-address": host,
        "metrics-port": ports.metrics,
        "allow-sagemaker": "false",
        "allow-vertex-ai": "false",
        "log-format": "ISO8601",
        # A proxy's name for a request reaches the public model as a parameter.
        "http-header-forward-pattern": _FORWARDED,
        # A caller's trace too, which Triton itself may misread over gRPC: see Origin.
        "grpc-header-forward-pattern": _FORWARDED_TRACED if tracing else _FORWARDED,
    }
    if not gpu:
        flags |= {"allow-gpu-metrics": "false", "pinned-memory-pool-byte-size": 0}
    if cache_mib:
        flags |= {"cache-directory": installation.caches, "cache-config": f"local,size={cache_mib * 2**20}"}
    return [
        str(installation.binary),
        "--disable-auto-complete-config",
        *(f"--model-repository={repository}" for repository in repositories),
        f"--backend-config=python,shm-region-prefix-name={region_prefix}",
        f"--backend-config=python,thread-pool-size={calls + _SPARE_THREADS}",
        # A model's process may start slowly on a busy machine; Triton's own 30 s then abort the server.
        f"--backend-config=python,stub-timeout-seconds={start_timeout}",
        *(f"--{name}={value}" for name, value in flags.items()),
        *_restrictions(shared_memory_key),
        *(_client_memory_flag(installation) if shared_memory_key else ()),
        *tracing,
    ]


def _restrictions(shared_memory_key: str) -> list[str]:
    """Return what has Triton ask for keys."""
    groups = {
        _ADMINISTRATION: f"ofa-admin-key={secrets.token_hex(16)}",
        _SHARED_MEMORY: f"ofa-shared-memory-key={shared_memory_key or secrets.token_hex(16)}",
    }
    flags = ("http-restricted-api", "grpc-restricted-protocol")
    return [f"--{flag}={names}:{key}" for flag in flags for names, key in groups.items()]


def _client_memory_flag(installation: Installation) -> list[str]:
    """Return the switch that Triton needs as well from 2.69 on; an earlier one ends at a flag it does not know."""
    command = [installation.binary, "--help"]
    usage = subprocess.run(command, env=dict(installation.environment), capture_output=True, check=False)
    return ["--allow-client-shm=true"] if b"--allow-client-shm" in usage.stdout + usage.stderr else []


def tracing_flags(url: str, every: int) -> list[str]:
    """Return what has Triton trace one of ``every`` requests to the collector at ``url``; nothing without one."""
    if not url:
        return []
    settings = {
        "mode": "opentelemetry",
        "rate": every,
        "level": "TIMESTAMPS",
        "opentelemetry,url": url,
        "opentelemetry,resource": f"service.name={SERVICE}",
    }
    return [f"--trace-config={name}={value}" for name, value in settings.items()]


class TritonProcess:
    """A running ``tritonserver``, in a session of its own: a terminal's Ctrl-C reaches the launcher alone.

    Its log goes to this process's standard error as it comes, and its last lines are kept.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], log_format: LogFormat) -> None:
        self._log_format = log_format
        tethered = [sys.executable, tether.__file__, str(os.getpid()), *command]
        self._process = subprocess.Popen(
            tethered,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._log: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._relay = threading.Thread(target=self._relay_log, name="triton-log", daemon=True)
        self._relay.start()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The server's exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def last_lines(self) -> list[str]:
        """Return the end of its log, complete once the server has ended."""
        if self.exit_code is not None:
            self._relay.join(timeout=_ENDING_SECONDS)
        return list(self._log)

    def terminate(self) -> None:
        """Ask it to finish the requests in flight and end."""
        self._process.terminate()

    def wait(self, seconds: float) -> int | None:
        """Return its exit code, or None if it still runs after ``seconds``."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """End it now, and every process of its models."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:  # all have ended
            return
        self._process.wait()
        deadline = time.monotonic() + _ENDING_SECONDS  # one that a driver holds does not end
        with contextlib.suppress(ChildProcessError):  # none is left
            while time.monotonic() < deadline:  # to the first process of a container they fall as its children
                if os.waitpid(-self._process.pid, os.WNOHANG) == (0, 0):
                    time.sleep(0.01)

    def _relay_log(self) -> None:
        for line in self._process.stdout:
            text = line.decode(errors="replace").rstrip("\n")
            self._log.append(text)
            shown = line
            if self._log_format is LogFormat.JSON:
                shown = f"{json_of_triton(text)}\n".encode(errors="backslashreplace")
            if sys.stderr is not None:
                with contextlib.suppress(OSError, ValueError):  # a server whose log is not taken any more would stop
                    sys.stderr.buffer.write(shown)
                    sys.stderr.buffer.flush()
