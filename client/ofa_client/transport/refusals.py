"""A refusal of Triton, of the captioning model or of a proxy, as the client's exception for it."""

from __future__ import annotations

import re

from ofa_client import errors
from ofa_client.transport.base import InferRequest

_REQUEST_ID = re.compile(r"^\[request id: [^\]]*\] ")
"""What Triton puts before some of its own messages."""

_CODES = {**errors.SERVER_ERRORS, **errors.FRONT_ERRORS}
_CODED = re.compile(rf"^({'|'.join(_CODES)}): (.*)", re.DOTALL)

_TRITON_TEXTS: tuple[tuple[str, type[errors.CaptionServiceError]], ...] = (
    ("exceeds maximum queue size", errors.OverloadedError),
    ("request timeout expired", errors.DeadlineExceededError),
    ("is restricted, expecting header", errors.AccessRefusedError),  # gRPC calls it UNAVAILABLE, yet a retry is no use
)

_STATUSES: dict[str, type[errors.CaptionServiceError]] = {
    "UNAVAILABLE": errors.ServiceUnavailableError,
    "CANCELLED": errors.ServiceUnavailableError,
    "502": errors.ServiceUnavailableError,
    "503": errors.ServiceUnavailableError,
    "DEADLINE_EXCEEDED": errors.DeadlineExceededError,
    "408": errors.DeadlineExceededError,
    "504": errors.DeadlineExceededError,
    "RESOURCE_EXHAUSTED": errors.OverloadedError,
    "429": errors.OverloadedError,
    "413": errors.ImageTooLargeError,
    "NOT_FOUND": errors.ModelNotFoundError,
    "404": errors.ModelNotFoundError,
    "UNAUTHENTICATED": errors.AccessRefusedError,
    "PERMISSION_DENIED": errors.AccessRefusedError,
    "401": errors.AccessRefusedError,
    "403": errors.AccessRefusedError,
    "INTERNAL": errors.InternalError,
    "500": errors.InternalError,
}

_GRPC_CONNECTION = re.compile(r"^.*last error: (?:UNKNOWN: )?(?:\S+: )?", re.DOTALL)
"""How gRPC begins its reason for not having connected: with addresses that the message names already."""

_UNREADABLE_BODY = "an exception occurred in the client"
"""How tritonclient begins its message about an error whose body is not Triton's JSON: a proxy's page."""


def refusal(status: str | None, text: object, server: str) -> errors.CaptionServiceError:
    """Turn a status (``StatusCode.UNAVAILABLE``, ``503``) and its message into an exception.

    The server's code word decides; without one Triton's own known texts do, and then the status.
    """
    status = (status or "").rpartition(".")[2]
    sentence = _REQUEST_ID.sub("", str(text or "").strip())
    coded = _CODED.match(sentence)
    if coded:
        return _CODES[coded[1]](_one_line(coded[2]))
    for known, error in _TRITON_TEXTS:
        if known in sentence.lower():
            return error(_one_line(sentence))
    error = _STATUSES.get(status, errors.UnexpectedResponseError)
    if not sentence or sentence.startswith(_UNREADABLE_BODY):
        sentence = f"{server} answered with status {status or 'unknown'}"
    elif error is errors.ServiceUnavailableError:
        return unreachable(server, _GRPC_CONNECTION.sub("", sentence))
    return error(_one_line(sentence))


def unreachable(server: str, reason: object) -> errors.ServiceUnavailableError:
    """Say that no connection came about, or that it broke."""
    return errors.ServiceUnavailableError(f"cannot get an answer from {server} ({_one_line(str(reason))})")


def deadline_exceeded(request: InferRequest, server: str) -> errors.SilentServerError:
    """Say that the client's own deadline has passed."""
    return errors.SilentServerError(f"{server} gave no answer within {request.timeout:.3g} seconds")


def _one_line(text: str) -> str:
    return " ".join(text.split())
