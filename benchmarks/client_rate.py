"""How much of a server's rate the client gets: ``scripts/with-server NAME python -m benchmarks.client_rate``.

Bare ``tritonclient`` calls in a closed loop are what the server can give. They and each way of calling
``caption_many`` caption the same images in turns; the result is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import itertools
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import tritonclient.grpc as protocol
from ofa_client import AsyncCaptioner, Captioner
from tritonclient.grpc.aio import InferenceServerClient

from benchmarks.environment import required_variable
from benchmarks.machine import describe
from loadtest.loops import turns

CONCURRENCY = 16
URL = required_variable("OFA_URL")
MODEL = required_variable("OFA_MODEL")
RESULT = Path(__file__).parent / "results/client-rate.md"
BARE = "bare `tritonclient` calls"

Way = Callable[[list[bytes]], Awaitable[None]]


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


WAYS: dict[str, Way] = {
    BARE: bare,
    "`AsyncCaptioner`, in order": lambda images: asynchronous(images, True),
    "`AsyncCaptioner`, as completed": lambda images: asynchronous(images, False),
    "`Captioner`, in order": plain,
}


def rate(send: Way, images: list[bytes]) -> float:
    """Images a second."""
    begin = time.perf_counter()
    asyncio.run(send(images))
    return len(images) / (time.perf_counter() - begin)


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--images", type=int, default=200, help="in each turn")
    parser.add_argument("--turns", type=int, default=5, help="of each way")
    flags = parser.parse_args()
    files = [path.read_bytes() for path in sorted(Path("examples/images").iterdir())]
    images = list(itertools.islice(itertools.cycle(files), flags.images))
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    rate(bare, images)
    for turn in range(flags.turns):
        for name in turns(list(WAYS), turn):
            rates[name].append(rate(WAYS[name], images))
    report = _report(flags, rates)
    sys.stdout.write(report)
    RESULT.write_text(report, encoding="utf-8")


def _report(flags: argparse.Namespace, rates: dict[str, list[float]]) -> str:
    machine = describe()
    can_give = statistics.median(rates[BARE])
    lines = [
        "# How much of a server's rate the client gets\n",
        f"`{MODEL}` on {machine['cores']} cores of {machine['processor']}, client and server together, "
        f"{datetime.date.today()};",
        f"`scripts/with-server {MODEL} python -m benchmarks.client_rate --images {flags.images} "
        f"--turns {flags.turns}`.",
        f"{CONCURRENCY} requests in flight over gRPC; {flags.turns} turns of {flags.images} images, in rotation.\n",
        "| | captions/s, median (least-most) | of what the server gives |",
        "|---|---|---|",
    ]
    for name, values in rates.items():
        median = statistics.median(values)
        lines.append(f"| {name} | {median:.1f} ({min(values):.1f}-{max(values):.1f}) | {median / can_give:.1%} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
