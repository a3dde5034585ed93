"""What is tried again, how often and when.

A caption changes nothing on the server, so another try is safe wherever the first one cannot have been the image's or
the caller's fault. A server that refuses an image because its deadline passed is not asked again: the same work would
take the same time once more. One that did not even refuse it within an attempt's own timeout may be away.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Callable, TypeVar

from ofa_client.errors import (
    CaptionServiceError,
    ImageHostError,
    InternalError,
    OverloadedError,
    ServiceUnavailableError,
    SilentServerError,
)

_T = TypeVar("_T")

_TRANSIENT = (OverloadedError, ServiceUnavailableError, ImageHostError)


@dataclass(frozen=True)
class Retry:
    """How a request is tried again that met a full or missing server, within its ``timeout``.

    Pauses are drawn at random from 0 to a bound that doubles, after what the server itself asked for. An ``INTERNAL``
    error is tried once more, because the image may have shared a server's death with the one that caused it. Fetching
    an image's URL has as many attempts of its own, for a host that is away, failing or full.

    Raises:
        ValueError: no attempt, or a pause that is no number of seconds.
    """

    attempts: int = 5
    """Requests sent for an image at most, the first one included; one that replicas hand on counts once."""

    first_pause: float = 0.1
    """Seconds that the first pause may last."""

    longest_pause: float = 5.0
    """Seconds that any pause may last, besides what the server asks for."""

    patience: float | None = None
    """Seconds after the first failure in which to try again; None leaves it to the request's ``timeout``."""

    attempt_timeout: float | None = None
    """Seconds that each attempt may take, another following where no answer came; None gives each what is left of the
    request's ``timeout``."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts}")
        if not 0 <= self.first_pause <= self.longest_pause:
            raise ValueError("a retry's pauses must be 0 <= first_pause <= longest_pause")
        if self.patience is not None and not self.patience >= 0:
            raise ValueError(f"a retry's patience must be at least 0, not {self.patience}")
        if self.attempt_timeout is not None and not self.attempt_timeout > 0:
            raise ValueError(f"attempt_timeout must be above 0, not {self.attempt_timeout}")

    def allows(self, error: CaptionServiceError, attempt: int, internal: int = 1) -> bool:
        """Tell whether to try again after ``attempt`` (1 for the first); INTERNAL errors have a count of their own."""
        if isinstance(error, InternalError):
            again = internal < 2
        elif isinstance(error, SilentServerError):
            again = self.attempt_timeout is not None
        else:
            again = isinstance(error, _TRANSIENT)
        return again and attempt < self.attempts

    def pause(self, error: CaptionServiceError, attempt: int) -> float:
        """Draw the seconds to wait after ``attempt``; random, so that clients do not come back all at once."""
        bound = min(self.first_pause * 2 ** min(attempt - 1, 60), self.longest_pause)
        return (error.retry_after or 0) + random.uniform(0, bound)


NO_RETRY = Retry(attempts=1)


async def retrying(
    send: Callable[[float], Awaitable[_T]],
    policy: Retry,
    deadline: float,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> _T:
    """Await ``send(timeout)`` until it succeeds, or the policy or the deadline (``time.monotonic()``) ends it.

    Between two attempts it awaits ``pause(seconds)``, which may be over sooner.

    Raises:
        CaptionServiceError: the last attempt's; it is raised at once where the next pause would pass the deadline or
            the policy's patience.
    """
    attempt, internal, give_up_at, first_failed = 0, 0, deadline, math.inf
    first_sent = time.monotonic()
    while True:
        attempt += 1
        left = max(deadline - time.monotonic(), 1e-3)
        try:
            return await send(min(left, policy.attempt_timeout or left))
        except CaptionServiceError as error:
            now = time.monotonic()
            first_failed = min(first_failed, now)
            error._first_sent, error._first_failed = first_sent, first_failed
            internal += isinstance(error, InternalError)
            if not policy.allows(error, attempt, internal):
                raise
            if attempt == 1 and policy.patience is not None:
                give_up_at = min(deadline, now + policy.patience)
            seconds = policy.pause(error, attempt)
            if now + seconds >= give_up_at:
                raise
        await pause(seconds)
