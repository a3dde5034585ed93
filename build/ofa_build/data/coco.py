"""COCO's caption annotations, and Karpathy's split of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .records import BadRecords, DataError, Record, caption_list, file_reader

KARPATHY_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}
"""As every captioning paper counts: COCO's remaining validation images are for training."""


def read_coco(path: Path, images: Path | None, split: str | None, bad: BadRecords) -> list[Record]:
    """Read a JSON file of COCO's annotations (``images`` and ``annotations``) or of Karpathy's split.

    Args:
        path: the file.
        images: the folder its file names start from; by default the file's own.
        split: of Karpathy's file, which part; None is all of it.
        bad: takes the records that cannot be used.

    Raises:
        DataError: if the file is neither, or has no such split.

    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path.name} is not JSON") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("images"), list):
        raise DataError(f"{path.name} has no list of images, as COCO's files have")
    if "annotations" in content:
        if split:
            raise DataError(f"{path.name} has no splits; those are Karpathy's")
        pairs = _annotated(content["images"], content["annotations"], bad)
    else:
        pairs = _karpathy(content["images"], split, path.name)
    records = []
    for number, (image, captions) in enumerate(pairs):
        name = str(image.get("file_name", image.get("filename", f"image {number}")))
        try:
            records.append(Record(name, file_reader((images or path.parent) / _path(image)), caption_list(captions)))
        except (DataError, TypeError) as error:
            bad.add(name, str(error))
    return records


def _annotated(images: Sequence[Any], annotations: Sequence[Any], bad: BadRecords) -> list[tuple[Mapping, list]]:
    """Pair COCO's images, in the file's order, with their captions."""
    by_id: dict[object, tuple[Mapping, list]] = {image.get("id"): (image, []) for image in images}
    for number, annotation in enumerate(annotations):
        image, caption = annotation.get("image_id"), annotation.get("caption")
        if image not in by_id:
            bad.add(f"annotation {annotation.get('id', number)}", f"there is no image {image}")
        elif not isinstance(caption, str):
            bad.add(f"annotation {annotation.get('id', number)}", "it has no caption")
        else:
            by_id[image][1].append(caption)
    return list(by_id.values())


def _karpathy(images: Sequence[Any], split: str | None, name: str) -> Iterator[tuple[Mapping, list]]:
    if split and split not in KARPATHY_SPLITS:
        raise DataError(f"{name} has no split {split}; there are {', '.join(KARPATHY_SPLITS)}")
    for image in images:
        if split is None or image.get("split") in KARPATHY_SPLITS[split]:
            yield image, [sentence.get("raw") for sentence in image.get("sentences", ())]


def _path(image: Mapping[str, Any]) -> str:
    name = image.get("file_name", image.get("filename"))
    if not isinstance(name, str):
        raise DataError("the image has no file name")
    folder = image.get("filepath", "") if "file_name" not in image else ""
    return str(Path(folder) / name)
