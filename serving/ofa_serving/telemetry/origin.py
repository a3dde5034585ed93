"""Where a request comes from: the id that its log lines share, and the trace it belongs to."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from typing import Any, Self

ID_HEADER = "x-request-id"
"""The header in which a proxy names a request. Triton hands it over as a parameter, spelt as the protocol spells it."""

TRACE_PARAMETER = "traceparent"
"""The header of W3C's Trace Context, and the parameter by which the public model tells a stage which span called it."""

_SOUND = re.compile(r"[!-~]{1,128}")
_SAMPLED = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f][13579bdf]")


@dataclass(frozen=True)
class Origin:
    """A request's id in the logs, and its span; None if the request is not traced."""

    request_id: str
    traceparent: str | None = None

    @classmethod
    def unknown(cls) -> Self:
        """That of a request which cannot be read."""
        return cls(uuid.uuid4().hex)

    @classmethod
    def take(cls, request: Any, parameters: dict[str, Any], traced: bool) -> Self:
        """Reads the origin of a request to the public model, and takes what is not the search's out of its parameters.

        The id is the proxy's; without a proxy the client's; otherwise a new one. The span is the one that Triton opened
        for the request, and the caller's own if that belongs to another trace: over gRPC, Triton (2.51 to 2.71) reads
        the caller's header beyond its end, and begins a trace of its own where no zero byte follows by luck.
        """
        named = _header(parameters, ID_HEADER) or request_id(request)
        sound = named if _SOUND.fullmatch(named) else uuid.uuid4().hex
        return cls(sound, _span(request, _header(parameters, TRACE_PARAMETER)) if traced else None)


def request_id(request: Any) -> str:
    """The client's name for a request; empty if it has none, or one that is no text in UTF-8."""
    try:
        return request.request_id()
    except ValueError:
        return ""


def _header(parameters: dict[str, Any], header: str) -> str:
    """Takes a forwarded header out of a request's parameters; empty without one."""
    found = [str(parameters.pop(name)) for name in list(parameters) if name.lower() == header]
    return found[0] if found else ""


def _span(request: Any, callers: str) -> str | None:
    """The span that Triton opened for a request, if it traces it, or the one that its caller wants to see it in."""
    context = request.trace().get_context()
    opened = json.loads(context).get(TRACE_PARAMETER) if context else None
    wanted = _SAMPLED.fullmatch(callers)
    return callers if wanted and wanted[1] not in (opened or "") else opened
