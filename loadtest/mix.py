"""What is sent: images of several sizes and formats, several searches, and some bad input."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

EXAMPLES = Path(__file__).resolve().parents[1] / "examples/images"
OK = "OK"
CALLER_LIMIT = "CALLER_LIMIT"
"""What the proxy's refusals of one caller's surplus are counted as; a busy server's are OVERLOADED."""


@dataclass(frozen=True)
class Case:
    """One kind of request.

    Attributes:
        name: what the statistics call it.
        weight: how often it comes, against the others' weights.
        image: the file's bytes.
        options: the search's.
        expected: ``OK`` or the code of the refusal that is the right answer.
    """

    name: str
    weight: float
    image: bytes
    options: dict[str, Any] = field(default_factory=dict)
    expected: str = OK


def default_mix(folder: Path = EXAMPLES) -> list[Case]:
    """The examples as they are, resized and converted, searched narrowly and widely, and 4 % bad input."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png", ".webp"))
    originals = [path.read_bytes() for path in paths]
    return [
        *(Case("example", 60 / len(paths), image) for image in originals),
        *(Case("small jpeg", 5, _converted(image, 160, "JPEG")) for image in originals[:2]),
        *(Case("large jpeg", 5, _converted(image, 1600, "JPEG")) for image in originals[2:4]),
        Case("large png", 4, _converted(originals[4], 1200, "PNG")),
        Case("webp", 4, _converted(originals[5], 640, "WEBP")),
        Case("beam 1", 4, originals[0], {"beam_size": 1}),
        Case("beam 10", 4, originals[1], {"beam_size": 10}),
        Case("empty file", 1, b"", expected="EMPTY_IMAGE"),
        Case("no image", 1, b"this is a sentence, not an image", expected="UNSUPPORTED_FORMAT"),
        Case("cut jpeg", 1, _cut(originals[0]), expected="TRUNCATED_IMAGE"),
        Case("beam 0", 1, originals[0], {"beam_size": 0}, expected="INVALID_PARAMETER"),
    ]


def _converted(data: bytes, side: int, image_format: str) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        resized = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    resized.save(out, image_format)
    return out.getvalue()


def _cut(data: bytes) -> bytes:
    jpeg = _converted(data, 480, "JPEG")
    return jpeg[: len(jpeg) // 2]
