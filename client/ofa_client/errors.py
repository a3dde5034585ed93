"""One exception class per code word, so that a caller handles the cases it can do something about.

``str(error)`` is ``"CODE: what happened. What to do."``; the same classes come from gRPC and HTTP.
"""

from __future__ import annotations

import math
import re
from typing import ClassVar

_HINT = re.compile(r"try again in (\d+(?:\.\d+)?) s\b")


class CaptionServiceError(Exception):
    """A request that got no caption. Base of all errors below."""

    code: ClassVar[str] = "UNKNOWN"
    """The stable code word."""

    advice: ClassVar[str] = ""
    """What the caller can do about it, one sentence."""

    _first_sent: float = math.inf
    _first_failed: float = math.inf
    """When the image's first attempt began and ended, of ``time.monotonic()``."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the server said to come again, if it did."""
        hint = _HINT.search(self.message)
        return float(hint[1]) if hint else None

    def __str__(self) -> str:
        sentence = self.message.rstrip(".")
        return f"{self.code}: {sentence}. {self.advice}".rstrip()


class EmptyImageError(CaptionServiceError):
    """The image holds no bytes."""

    code = "EMPTY_IMAGE"
    advice = "Check that the image was written completely before it was sent."


class UnsupportedFormatError(CaptionServiceError):
    """The bytes are no image that the server reads."""

    code = "UNSUPPORTED_FORMAT"
    advice = "Send a JPEG, PNG, WebP, GIF or BMP file."


class TruncatedImageError(CaptionServiceError):
    """The image file ends early or is damaged."""

    code = "TRUNCATED_IMAGE"
    advice = "Fetch or export the file again."


class ImageTooLargeError(CaptionServiceError):
    """The image has too many pixels or bytes, or is too long for its width."""

    code = "IMAGE_TOO_LARGE"
    advice = "Scale or crop the image first."


class InvalidParameterError(CaptionServiceError):
    """A request parameter is unknown, of the wrong type or out of range."""

    code = "INVALID_PARAMETER"
    advice = "Correct the option, or leave it out for the checkpoint's default."


class InvalidRequestError(CaptionServiceError):
    """The front before the server does not take requests of this form."""

    code = "INVALID_REQUEST"
    advice = "Check that no program on the way changes or compresses requests."


class ImageFetchError(CaptionServiceError):
    """An image's URL gave no image file; this client fetches it, not the server."""

    code = "FETCH_FAILED"
    advice = "Open the URL in a browser, or download the image yourself."


class ImageHostError(ImageFetchError):
    """The URL's host is away, failing or full, or this client's network is: another try may bring the image."""


class DeadlineExceededError(CaptionServiceError):
    """The caption was not there within ``timeout``."""

    code = "DEADLINE_EXCEEDED"
    advice = "Raise the timeout, lower beam_size or max_length, or send fewer requests at once."


class SilentServerError(DeadlineExceededError):
    """Not even the server's own refusal came in time: it may be away without having hung up."""


class OverloadedError(CaptionServiceError):
    """The server's queue is full; it did not start on the image."""

    code = "OVERLOADED"
    advice = "Send fewer requests at once, or try again after a pause."


class InternalError(CaptionServiceError):
    """The server failed; the image may be fine."""

    code = "INTERNAL"
    advice = "Try once more; if it happens again, look into the server's log."


class ServiceUnavailableError(CaptionServiceError):
    """No server could be reached, or the connection broke."""

    code = "UNAVAILABLE"
    advice = "Check that the server runs, and that host, port and scheme are right."


class ModelNotFoundError(CaptionServiceError):
    """The server does not serve a model of that name."""

    code = "MODEL_NOT_FOUND"
    advice = "Check the model's name: it is the NAME that the checkpoint was built under."


class AccessRefusedError(CaptionServiceError):
    """The server or a proxy does not let this client in; another try changes nothing."""

    code = "ACCESS_REFUSED"
    advice = "Ask the server's operator for access."


class UnexpectedResponseError(CaptionServiceError):
    """An answer that does not follow the contract."""

    code = "UNEXPECTED_RESPONSE"
    advice = "Check that the address is an OFA captioning server of this client's version."


SERVER_ERRORS: dict[str, type[CaptionServiceError]] = {
    error.code: error
    for error in (
        EmptyImageError,
        UnsupportedFormatError,
        TruncatedImageError,
        ImageTooLargeError,
        InvalidParameterError,
        DeadlineExceededError,
        OverloadedError,
        InternalError,
    )
}
"""The contract's code words: what the server's message begins with."""

FRONT_ERRORS: dict[str, type[CaptionServiceError]] = {
    "ACCESS_REFUSED": AccessRefusedError,
    "INVALID_REQUEST": InvalidRequestError,
    "NOT_FOUND": ModelNotFoundError,
    "UNAVAILABLE": ServiceUnavailableError,
}
"""The code words of the proxy in front of the server, besides the contract's."""
