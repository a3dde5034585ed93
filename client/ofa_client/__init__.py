"""Captions images with an OFA captioning server.

>>> from ofa_client import Captioner
>>> with Captioner("grpc://localhost:8001") as captioner:              # doctest: +SKIP
...     print(captioner.caption("photo.jpg").text)
"""

from ofa_client.aio import AsyncCaptioner
from ofa_client.errors import (
    AccessRefusedError,
    CaptionServiceError,
    DeadlineExceededError,
    EmptyImageError,
    ImageFetchError,
    ImageTooLargeError,
    InternalError,
    InvalidParameterError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ServiceUnavailableError,
    TruncatedImageError,
    UnexpectedResponseError,
    UnsupportedFormatError,
)
from ofa_client.images import ImageSource
from ofa_client.many import Outcome
from ofa_client.options import SearchOptions
from ofa_client.results import Caption
from ofa_client.retry import Retry
from ofa_client.sync import Captioner

__all__ = [
    "AccessRefusedError",
    "AsyncCaptioner",
    "Caption",
    "CaptionServiceError",
    "Captioner",
    "DeadlineExceededError",
    "EmptyImageError",
    "ImageFetchError",
    "ImageSource",
    "ImageTooLargeError",
    "InternalError",
    "InvalidParameterError",
    "InvalidRequestError",
    "ModelNotFoundError",
    "Outcome",
    "OverloadedError",
    "Retry",
    "SearchOptions",
    "ServiceUnavailableError",
    "TruncatedImageError",
    "UnexpectedResponseError",
    "UnsupportedFormatError",
]
