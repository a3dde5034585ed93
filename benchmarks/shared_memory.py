"""What shared memory is worth to a client on the server's host.

``OFA_SHARED_MEMORY_KEY=… scripts/with-server NAME python -m benchmarks.shared_memory`` captions the same images one at
a time, with their bytes in the request and in shared memory in turns; the result is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import datetime
import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ofa_client import Captioner
from PIL import Image

from benchmarks.environment import required_variable
from benchmarks.images import write_images
from benchmarks.machine import describe

RESULT = Path(__file__).parent / "results/shared-memory.md"
MODEL = required_variable("OFA_MODEL")
URLS = {"gRPC": required_variable("OFA_URL"), "HTTP": required_variable("OFA_HTTP_URL")}
KEY = required_variable("OFA_SHARED_MEMORY_KEY")
WARM_UP = 5


def images() -> dict[str, bytes | np.ndarray]:
    """A photograph as a file, and as pixels of two sizes."""
    with tempfile.TemporaryDirectory() as folder:
        [path] = write_images(Path(folder), 1)
        photograph = Image.open(path).convert("RGB")
    small = photograph.resize((480, 480))
    jpeg = io.BytesIO()
    small.save(jpeg, "JPEG", quality=90)
    return {
        "JPEG, 480 x 480": jpeg.getvalue(),
        "array, 480 x 480": np.asarray(small),
        "array, 2400 x 2400": np.asarray(photograph.resize((2400, 2400))),
    }


def milliseconds(captioner: Captioner, image: bytes | np.ndarray) -> float:
    """One caption, as short as it can be made."""
    begin = time.perf_counter()
    captioner.caption(image, max_length=1, beam_size=1)
    return (time.perf_counter() - begin) * 1e3


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=100)
    flags = parser.parse_args()
    rows = []
    for protocol, url in URLS.items():
        with (
            Captioner(url, model=MODEL) as plain,
            Captioner(url, model=MODEL, shared_memory_key=KEY) as sharing,
        ):
            for what, image in images().items():
                times: dict[Captioner, list[float]] = {plain: [], sharing: []}
                for turn in range(flags.turns + WARM_UP):
                    for captioner in (plain, sharing) if turn % 2 else (sharing, plain):
                        times[captioner].append(milliseconds(captioner, image))
                rows.append(_row(f"{protocol}, {what}", *(values[WARM_UP:] for values in times.values())))
    report = _report(flags, rows)
    sys.stdout.write(report)
    RESULT.write_text(report, encoding="utf-8")


def _row(what: str, plain: list[float], sharing: list[float]) -> str:
    ms, ms_sharing = statistics.median(plain), statistics.median(sharing)
    return f"| {what} | {ms:.1f} | {ms_sharing:.1f} | {ms - ms_sharing:+.1f} ms, {1 - ms_sharing / ms:+.1%} |"


def _report(flags: argparse.Namespace, rows: list[str]) -> str:
    machine = describe()
    lines = [
        "# What shared memory is worth\n",
        f"`{MODEL}` on {machine['cores']} cores of {machine['processor']}, {datetime.date.today()};",
        f"`OFA_SHARED_MEMORY_KEY=… scripts/with-server {MODEL} "
        f"python -m benchmarks.shared_memory --turns {flags.turns}`.",
        f"One image at a time, one token a caption, {flags.turns} turns each way; medians.\n",
        "| | in the request, ms | in shared memory, ms | saved |",
        "|---|---|---|---|",
    ]
    return "\n".join([*lines, *rows]) + "\n"


if __name__ == "__main__":
    main()
