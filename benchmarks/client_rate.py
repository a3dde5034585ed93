"""How much of a server's rate the client gets: ``scripts/with-server NAME python -m benchmarks.client_rate``.

Bare ``tritonclient`` calls in a closed loop are what the server can give; ``caption_many`` is measured between two
such runs, each way of calling it against the mean of its neighbours.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import tritonclient.grpc as protocol
from ofa_client import AsyncCaptioner, Captioner
from tritonclient.grpc.aio import InferenceServerClient

CONCURRENCY = 16
URL = os.environ["OFA_URL"]
MODEL = os.environ["OFA_MODEL"]


async def bare(images: list[bytes]) -> None:
    """Send with nothing between."""
    client = InferenceServerClient(URL.removeprefix("grpc://"))
    left = iter(images)
    outputs = [protocol.InferRequestedOutput(name) for name in ("caption", "score")]

    async def worker() -> None:
        for image in left:
            tensor = protocol.InferInput("image", [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[image]], np.object_))
            await client.infer(MODEL, [tensor], outputs=outputs, parameters={"num_captions": "1"})

    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    await client.close()


async def asynchronous(images: list[bytes], in_order: bool) -> None:
    """Send by the asynchronous client."""
    async with AsyncCaptioner(URL, model=MODEL) as captioner:
        async for outcome in captioner.caption_many(images, concurrency=CONCURRENCY, in_order=in_order):
            assert outcome.error is None


async def plain(images: list[bytes]) -> None:
    """Send by the plain client."""
    with Captioner(URL, model=MODEL) as captioner:
        for outcome in captioner.caption_many(images, concurrency=CONCURRENCY):
            assert outcome.error is None


def rate(send: Callable[[list[bytes]], Awaitable[None]], images: list[bytes]) -> float:
    """Images a second."""
    begin = time.perf_counter()
    asyncio.run(send(images))
    return len(images) / (time.perf_counter() - begin)


def main() -> None:
    """Measure and write the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    files = [path.read_bytes() for path in sorted(Path("examples/images").iterdir())]
    images = list(itertools.islice(itertools.cycle(files), count))
    ways: dict[str, Callable[[list[bytes]], Awaitable[None]]] = {
        "asyncio, in order": lambda some: asynchronous(some, True),
        "asyncio, as completed": lambda some: asynchronous(some, False),
        "plain, in order": plain,
    }
    rate(bare, images[:64])
    before = rate(bare, images)
    for name, way in ways.items():
        measured = rate(way, images)
        after = rate(bare, images)
        sys.stdout.write(f"{name:24} {measured:7.1f}/s, bare {before:.1f} and {after:.1f}/s")
        sys.stdout.write(f": {2 * measured / (before + after):.1%}\n")
        before = after


if __name__ == "__main__":
    main()
