"""How the client connects: certificates, headers and pings, checked when the captioner is made."""

from __future__ import annotations

import math
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Union

FilePath = Union[str, "PathLike[str]"]

_SHARED_MEMORY_KEY = re.compile(r"[A-Za-z0-9_-]{16,}")
_HEADER_NAME = re.compile(r"[a-z0-9-]+(?<!-bin)")
"""In lower case; the value of one that ends with ``-bin`` is bytes to gRPC."""


@dataclass(frozen=True)
class ConnectionSettings:
    """The part of a captioner's arguments that its connections need; see :class:`~ofa_client.AsyncCaptioner`."""

    ca_file: str | None
    cert_file: str | None
    key_file: str | None
    headers: Mapping[str, str]
    keep_alive: float | None
    shared_memory_key: str | None

    @classmethod
    def checked(
        cls,
        ca_file: FilePath | None,
        cert_file: FilePath | None,
        key_file: FilePath | None,
        headers: Mapping[str, str] | None,
        api_key: str | None,
        keep_alive: float | None,
        shared_memory_key: str | None,
    ) -> ConnectionSettings:
        """Refuse here what would later look like a server that cannot be reached.

        Raises:
            ValueError: files that are no certificates or keys, a header or a key that is none, pings in no time.
            OSError: a file cannot be read.
        """
        if key_file is not None and cert_file is None:
            raise ValueError("key_file is the key of a cert_file, which is missing")
        if keep_alive is not None and not (math.isfinite(keep_alive) and keep_alive >= 1):
            raise ValueError(f"keep_alive is at least 1 second, not {keep_alive!r}")
        if shared_memory_key is not None and not _SHARED_MEMORY_KEY.fullmatch(shared_memory_key):
            raise ValueError("shared_memory_key is the server's: at least 16 letters, digits, - and _")
        if shared_memory_key is not None and not Path("/dev/shm").is_dir():
            raise ValueError("shared memory needs /dev/shm, as Linux has it")
        settings = cls(
            None if ca_file is None else fspath(ca_file),
            None if cert_file is None else fspath(cert_file),
            None if cert_file is None else fspath(key_file or cert_file),
            _checked_headers(headers or {}, api_key),
            keep_alive,
            shared_memory_key,
        )
        if ca_file is not None or cert_file is not None:
            settings.ssl_context()
        return settings

    def ssl_context(self) -> ssl.SSLContext:
        """Make the TLS settings as Python has them.

        Raises:
            ValueError, OSError: as for :meth:`checked`.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except ssl.SSLError as error:
            raise ValueError(f"{self.ca_file} holds no PEM certificates") from error
        if self.cert_file is not None:
            try:
                context.load_cert_chain(self.cert_file, self.key_file)
            except ssl.SSLError as error:
                raise ValueError(f"{self.cert_file} and {self.key_file} are no PEM certificate and its key") from error
        return context


def reason_of(error: Exception) -> str:
    """Say why a connection failed as the system does; aiohttp's own texts show its data structures."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", error)
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {getattr(cause, 'verify_message', None) or cause.reason or cause}"
    number = getattr(cause, "errno", None) or 0
    if number > 0:
        return os.strerror(number)
    text = getattr(cause, "strerror", None) or str(cause) or "the connection broke"
    return " ".join(text.split())


def _checked_headers(headers: Mapping[str, str], api_key: str | None) -> dict[str, str]:
    """Write names in lower case, as gRPC wants them; the key travels as the proxy documents it."""
    checked = {name.lower(): value for name, value in headers.items()}
    if api_key is not None:
        checked["authorization"] = f"Bearer {api_key}"
    for name, value in checked.items():
        shown = "an API key" if name == "authorization" else f"the header {name!r}"
        if not (_HEADER_NAME.fullmatch(name) and value.isascii() and value.isprintable()):
            rule = "must be one line of ASCII, its name of letters, digits and hyphens without -bin at the end"
            raise ValueError(f"{shown} {rule}")
    return checked
