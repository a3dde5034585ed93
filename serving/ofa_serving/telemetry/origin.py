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
"""The parameter by which the public model tells a stage which span called it, as W3C's Trace Context writes it."""

_SOUND = re.compile(r"[!-~]{1,128}")


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

        The id is the proxy's; without a proxy the client's; otherwise a new one.
        """
        headers = [name for name in parameters if name.lower() == ID_HEADER]
        named = [parameters.pop(name) for name in headers] or [request_id(request)]
        return cls(
            str(named[0]) if _SOUND.fullmatch(str(named[0])) else uuid.uuid4().hex, _span(request) if traced else None
        )


def request_id(request: Any) -> str:
    """The client's name for a request; empty if it has none, or one that is no text in UTF-8."""
    try:
        return request.request_id()
    except ValueError:
        return ""


def _span(request: Any) -> str | None:
    """The span that Triton opened for a request, if it traces it."""
    context = request.trace().get_context()
    return json.loads(context).get(TRACE_PARAMETER) if context else None
