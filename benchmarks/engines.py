"""The engines alone, in this process: no server, no image decoding, no network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from ofa_serving.contract import Names
from ofa_serving.local import LocalCaptioner

BATCHES = {"cpu": (1, 4, 16, 64), "gpu": (1, 2, 4, 8, 16, 32, 64), "host": (1, 4)}
"""Images of one encoder run, and captions of one search (the search takes at most its ``max_captions`` at a time)."""

BEAMS = (1, 5, 10)
_REPEATS = {1: 5, 4: 3}
"""Runs that are counted, by number of images; one of larger batches, which take seconds on a CPU."""
_GPU_WARM, _GPU_LEAST, _GPU_SECONDS = 3, 5, 1.0
"""On a GPU: runs that are not counted, in which graphs are captured; the fewest that are; and how long they go on."""


def measure_engines(repository: Path, name: str, image_size: int, device: str = "cpu", largest_batch: int = 64) -> dict:
    """Milliseconds an image: ``encoder`` by batch, ``search`` by beam size and number of captions.

    Args:
        repository: a built ``model_repository``.
        name: the public model's.
        image_size: in pixels.
        device: a key of :data:`BATCHES`.
        largest_batch: those above are left out; 64 images of a large model want more than 24 GB.
    """
    random = np.random.default_rng(5)
    batches = [batch for batch in BATCHES[device] if batch <= largest_batch]
    with LocalCaptioner(repository, name) as captioner:
        pixels = random.integers(0, 256, (max(batches), image_size, image_size, 3), dtype=np.uint8)
        states = captioner.encode(pixels[:16])
        states = [states[number % len(states)] for number in range(max(batches))]
        search: dict[str, dict[str, float]] = {}
        for beam in BEAMS:
            settings = replace(captioner.defaults, beam_size=beam)
            search[str(beam)] = {
                str(count): _milliseconds(lambda: captioner.search(states[:count], settings), count, device)  # noqa: B023
                for count in batches
            }
        encoder = {
            str(count): _milliseconds(lambda: captioner.encode(pixels[:count]), count, device)  # noqa: B023
            for count in batches
        }
    return {"encoder": encoder, "search": search, "size_mib": engine_mebibytes(repository, name)}


def engine_mebibytes(repository: Path, name: str) -> float:
    """The size of the encoder's and the decoder's files."""
    names = Names(name)
    folders = (repository / names.encoder / "1", repository / names.beam_search / "1")
    files = [file for folder in folders for file in folder.iterdir() if ".onnx" in file.name or ".plan" in file.name]
    return round(sum(file.stat().st_size for file in files) / 2**20, 1)


def _milliseconds(run: Callable[[], object], images: int, device: str) -> float:
    """The median time of a run after some that are not counted, for each of its images."""
    gpu = device == "gpu"
    for _ in range(_GPU_WARM if gpu else 1):
        run()
    least, duration = (_GPU_LEAST, _GPU_SECONDS) if gpu else (_REPEATS.get(images, 1), 0)
    seconds: list[float] = []
    while len(seconds) < least or sum(seconds) < duration:
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return round(statistics.median(seconds) * 1e3 / images, 3)
