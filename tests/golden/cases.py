"""The golden records, read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from ofa_serving.generation import GenerationConfig

DATA = Path(__file__).parent / "data"
NAMES = ("en-default", "en-deep", "zh-default", "en-interpolated", "en-shared-bias")


@dataclass(frozen=True)
class Case:
    """One checkpoint and what ModelScope computed with it."""

    name: str

    @property
    def checkpoint(self) -> Path:
        return DATA / self.name / "checkpoint"

    @property
    def model_name(self) -> str:
        """What it is built and served as."""
        return self.name.replace("-", "_")

    @cached_property
    def record(self) -> dict:
        return json.loads((DATA / self.name / "record.json").read_text())

    @cached_property
    def tensors(self) -> dict[str, np.ndarray]:
        return dict(np.load(DATA / self.name / "tensors.npz"))

    @cached_property
    def images(self) -> list[bytes]:
        return [(DATA / "images" / name).read_bytes() for name in self.record["images"]]

    @property
    def searches(self) -> list[tuple[GenerationConfig, list]]:
        """Each recorded setting with its hypotheses, image by image."""
        return [(generation(entry["settings"]), entry["hypotheses"]) for entry in self.record["beam"]]


CASES = [Case(name) for name in NAMES]


def generation(recorded: dict) -> GenerationConfig:
    """ModelScope's names to the contract's."""
    return GenerationConfig(
        beam_size=recorded["beam_size"],
        num_captions=recorded["beam_size"],
        max_length=recorded["max_len_b"],
        min_length=recorded["min_len"],
        no_repeat_ngram_size=recorded["no_repeat_ngram_size"],
        length_penalty=recorded.get("len_penalty", 1.0),
        temperature=recorded.get("temperature", 1.0),
        unk_penalty=recorded.get("unk_penalty", 0.0),
    )
