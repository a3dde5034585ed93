"""The project's example images with captions, written in every format that training reads."""

import base64
import csv
import json
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
CAPTIONS = json.loads((EXAMPLES / "captions.json").read_text("utf-8"))
NAMES = ("boat.png", "gift.jpg", "owl.png", "heart.webp")
"""Four of the images: enough for a batch, small enough to train on in a test."""


def both(name: str) -> list[str]:
    """An image's own caption and a second one."""
    return [CAPTIONS[name], f"A picture of {CAPTIONS[name]}."]


def write_coco(folder: Path, names=NAMES) -> Path:
    path = folder / "captions_coco.json"
    images = [{"id": 10 + number, "file_name": name} for number, name in enumerate(names)]
    pairs = [(10 + number, text) for number, name in enumerate(names) for text in both(name)]
    annotations = [{"id": number, "image_id": image, "caption": text} for number, (image, text) in enumerate(pairs)]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def write_karpathy(folder: Path, splits=("train", "restval", "val", "test")) -> Path:
    path = folder / "dataset.json"
    images = [
        {"filename": name, "filepath": ".", "split": split, "sentences": [{"raw": text} for text in both(name)]}
        for name, split in zip(NAMES, splits, strict=True)
    ]
    path.write_text(json.dumps({"dataset": "coco", "images": images}))
    return path


def write_tsv(folder: Path, names=NAMES, file="train.tsv") -> Path:
    path = folder / file
    with path.open("wb") as out:
        for number, name in enumerate(names):
            image = base64.b64encode((EXAMPLES / "images" / name).read_bytes()).decode()
            out.write("\t".join([str(number), f"i{number}", "&&".join(both(name)), "dog&&cat", image]).encode() + b"\n")
    return path


def write_jsonl(folder: Path, names=NAMES, file="captions.jsonl") -> Path:
    path = folder / file
    path.write_text("".join(json.dumps({"image": name, "captions": both(name)}) + "\n" for name in names))
    return path


def write_csv(folder: Path, names=NAMES, columns=("file_name", "caption")) -> Path:
    path = folder / "captions.csv"
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(columns)
        writer.writerows([name, text] for name in names for text in both(name))
    return path
