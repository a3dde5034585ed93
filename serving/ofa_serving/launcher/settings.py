"""The launcher's flags. Each has an environment variable as well, and a flag wins."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ofa_serving.contract import DEFAULT_NAME
from ofa_serving.telemetry.logs import LogFormat
from ofa_serving.telemetry.requests import RequestLogMode

_Choice = TypeVar("_Choice", bound=StrEnum)

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True)
class Ports:
    """The three listeners' ports; 0 asks for any free one."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True)
class Settings:
    """What to serve, and where.

    Attributes:
        names: the checkpoints, each a folder of ``artifacts``.
        artifacts: where the builder put them.
        host: the address to listen on.
        ports: of the three listeners.
        run_folder: where the server's files are laid out; kept between runs.
        triton: the folder of an installed Triton that is to be run instead of the embedded one; None for that.
        start_timeout: seconds until every model must have loaded and every known image have its caption.
        stop_timeout: seconds that requests in flight are given to finish after a signal.
        canary_interval: seconds between two looks whether the known images still get their captions.
        canary_timeout: seconds that such a caption may take.
        max_restarts: how often within ten minutes a server that has failed is started again.
        cache_mib: size of the cache of encoded images; 0 for none.
        log_format: ``text`` or ``json``.
        request_log: which requests get lines of the log: ``none``, ``refused`` or ``all``.
        trace_url: the OpenTelemetry collector that traces go to, OTLP over HTTP; empty for none.
        trace_every: of how many requests one is traced.
        shared_memory_key: what clients on this host have to know to send images through shared memory; empty for none.

    """

    names: tuple[str, ...]
    artifacts: Path
    host: str
    ports: Ports
    run_folder: Path
    triton: Path | None
    start_timeout: int
    stop_timeout: int
    canary_interval: int
    canary_timeout: int
    max_restarts: int
    cache_mib: int
    log_format: LogFormat
    request_log: RequestLogMode
    trace_url: str
    trace_every: int
    shared_memory_key: str

    @property
    def reachable_host(self) -> str:
        """The address this machine's own clients use: loopback if the server listens everywhere."""
        host = _ANY_ADDRESS.get(self.host, self.host)
        return f"[{host}]" if ":" in host else host


def parse_settings(
    arguments: Sequence[str] | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    program: str = "ofa-serve",
    purpose: str = "Serve built checkpoints on the embedded Triton.",
) -> Settings:
    """Read the command line, and the environment for what it leaves out; exits 2 on a wrong one, as argparse does.

    Other programs that are told of a server take the same flags: ``program`` and ``purpose`` are what their help says.
    """
    parser = argparse.ArgumentParser(prog=program, description=purpose)

    def option(flag: str, parse: Callable[[str], Any], default: str, what: str) -> None:
        variable = "OFA_" + flag.upper().replace("-", "_")
        default = environ.get(variable) or default
        parser.add_argument(f"--{flag}", type=parse, default=default, help=_help(what, default, variable))

    names = tuple((environ.get("OFA_NAMES") or DEFAULT_NAME).split())
    parser.add_argument(
        "names", nargs="*", default=names, metavar="NAME", help=_help("what is served", " ".join(names), "OFA_NAMES")
    )
    option("artifacts", _folder, "artifacts", "folder of the built checkpoints")
    option("host", str, "127.0.0.1", "address to listen on; 0.0.0.0 for every one")
    option("http-port", _port, "8000", "0 for any free port")
    option("grpc-port", _port, "8001", "0 for any free port")
    option("metrics-port", _port, "8002", "0 for any free port")
    option("run-folder", _folder, str(_cache_folder(environ)), "where the server's files are laid out")
    option("triton", _optional_folder, "", "folder of an installed Triton to run instead of the embedded one")
    option("start-timeout", _positive, "600", "seconds until it must be ready")
    option("stop-timeout", _positive, "30", "seconds for requests in flight to finish after a signal")
    option("canary-interval", _positive, "10", "seconds between two trials of the known images")
    option("canary-timeout", _positive, "10", "seconds for a known image's caption, or 3 times what it took at start")
    option("max-restarts", _count, "5", "restarts of a failing server within 10 minutes; 0 ends with the first failure")
    option("cache-mib", _count, "0", "size of a cache of encoded images in MiB, about 1 MiB an image; 0 for none")
    option("log-format", _one_of(LogFormat), LogFormat.TEXT, "text or json, an object a line")
    option("request-log", _one_of(RequestLogMode), RequestLogMode.NONE, "which get log lines: none, refused or all")
    option("trace-url", str, "", "OpenTelemetry collector, such as http://collector:4318/v1/traces")
    option("trace-every", _positive, "100", "trace one of so many requests")
    option("shared-memory-key", _key, "", "lets clients on this host that know it send images through shared memory")
    values = vars(parser.parse_args(arguments))
    return Settings(
        names=tuple(dict.fromkeys(values.pop("names"))),
        ports=Ports(*(values.pop(f"{protocol}_port") for protocol in ("http", "grpc", "metrics"))),
        **values,
    )


def _help(what: str, default: str, variable: str) -> str:
    """Return an option's line in the help, in which argparse reads ``%``."""
    return f"{what} (default {default or 'none'}; {variable})".replace("%", "%%")


def _cache_folder(environ: Mapping[str, str]) -> Path:
    cache = environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path("~/.cache").expanduser()) / "ofa-serve"


def _folder(text: str) -> Path:
    return Path(text).absolute()


def _optional_folder(text: str) -> Path | None:
    return _folder(text) if text else None


def _number(text: str, least: int, most: float, kind: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = None
    if number is None or not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{text} is not a {kind}")
    return number


_port = partial(_number, least=0, most=65535, kind="port (0 to 65535)")
_positive = partial(_number, least=1, most=math.inf, kind="number from 1 up")
_count = partial(_number, least=0, most=math.inf, kind="number from 0 up")


def _one_of(choices: type[_Choice]) -> Callable[[str], _Choice]:
    def parse(text: str) -> _Choice:
        try:
            return choices(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(choices)}") from None

    return parse


def _key(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z0-9_-]{16,}", text):
        raise argparse.ArgumentTypeError("a key has at least 16 letters, digits, - and _")
    return text
