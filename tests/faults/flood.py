"""Many requests at a time, and what became of each."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import tritonclient.grpc as protocol
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

OK = "OK"
CODES = {
    OK,
    "EMPTY_IMAGE",
    "UNSUPPORTED_FORMAT",
    "TRUNCATED_IMAGE",
    "IMAGE_TOO_LARGE",
    "INVALID_PARAMETER",
    "DEADLINE_EXCEEDED",
    "OVERLOADED",
    "INTERNAL",
    "UNAVAILABLE",
}
"""The documented ones; the last is the client's own for a connection that broke."""

SCORE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Known:
    """An image, and what the reference says of it."""

    image: bytes
    caption: str
    score: float

    def fits(self, caption: str, score: float) -> bool:
        """Whether an answer is of this image: captions of small checkpoints repeat, so the score must fit as well."""
        return caption == self.caption and abs(score - self.score) < SCORE_TOLERANCE


@dataclass
class Outcomes:
    """What became of the requests: how many by code, and how long each took, in seconds."""

    codes: Counter[str] = field(default_factory=Counter)
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    mixed_up: int = 0
    undocumented: list[str] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Of the answered ones' times."""
        return float(np.percentile(self.answered, share))


def known_images(case) -> list[Known]:
    """Those of a golden case, with their best captions."""
    _, hypotheses = case.searches[0]
    best = [found[0]["score"] for found in hypotheses]
    captions = [captions[0] for captions in case.record["captions"]]
    return [Known(*triple) for triple in zip(case.images, captions, best, strict=True)]


def flood(
    url: str,
    model: str,
    known: Sequence[Known],
    *,
    requests: int,
    concurrency: int,
    seconds: float,
    parameters: Mapping[str, object] | None = None,
) -> Outcomes:
    """Sends ``requests`` over gRPC, so many at a time, each with a deadline of ``seconds``."""
    return asyncio.run(_flood(url, model, known, requests, concurrency, seconds, dict(parameters or {})))


async def _flood(url, model, known, requests, concurrency, seconds, parameters) -> Outcomes:
    outcomes, numbers = Outcomes(), iter(range(requests))
    async with InferenceServerClient(url) as client:

        async def work() -> None:
            for number in numbers:
                await one_request(client, model, known[number % len(known)], seconds, parameters, outcomes)

        await asyncio.gather(*(work() for _ in range(concurrency)))
    return outcomes


async def one_request(client, model, known, seconds, parameters, outcomes) -> None:
    """One caption asked for, and counted."""
    image = protocol.InferInput("image", [1, 1], "BYTES")
    image.set_data_from_numpy(np.array([[known.image]], dtype=np.object_))
    outputs = [protocol.InferRequestedOutput(name) for name in ("caption", "score")]
    began = time.monotonic()
    try:
        answer = await client.infer(model, [image], outputs=outputs, parameters=parameters, timeout=int(seconds * 1e6))
    except InferenceServerException as error:
        outcomes.refused.append(time.monotonic() - began)
        outcomes.codes[code_of(error, outcomes)] += 1
    else:
        outcomes.answered.append(time.monotonic() - began)
        outcomes.codes[OK] += 1
        caption, score = answer.as_numpy("caption")[0, 0].decode(), float(answer.as_numpy("score")[0, 0])
        outcomes.mixed_up += not known.fits(caption, score)


def code_of(error: InferenceServerException, outcomes: Outcomes) -> str:
    """The code word of a refusal; a text without one is kept, unless it is gRPC's own about a lost connection."""
    found = re.match(r"([A-Z_]+): ", error.message())
    if found and found[1] in CODES:
        return found[1]
    if error.status() == "StatusCode.UNAVAILABLE":
        return "UNAVAILABLE"
    outcomes.undocumented.append(f"{error.status()} {error.message()}")
    return "undocumented"
