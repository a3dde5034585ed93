"""COCO's caption annotations, and Karpathy's split of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .records import BadRecords, DataError, Record, caption_list, file_reader

KARPATHY_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}
"""As every captioning paper counts: COCO's remaining validation images are for training."""

_Captioned = tuple[str, Any, Any]
"""What messages call an image, its entry, and what the file has as its captions."""


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
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("images"), list):
        raise DataError(f"{path} has no list of images, as COCO's files have")
    if "annotations" not in content:
        captioned = _karpathy(content["images"], split, path)
    elif split:
        raise DataError(f"{path} has no splits; those are Karpathy's")
    elif not isinstance(content["annotations"], list):
        raise DataError(f"{path} has no list of annotations, as COCO's files have")
    else:
        captioned = _annotated(content["images"], content["annotations"], bad)
    records = []
    for name, image, captions in captioned:
        try:
            records.append(Record(name, file_reader((images or path.parent) / _path(image)), caption_list(captions)))
        except DataError as error:
            bad.add(name, str(error))
    return records


def _annotated(images: Sequence[Any], annotations: Sequence[Any], bad: BadRecords) -> Iterator[_Captioned]:
    """Pair COCO's images, in the file's order, with their captions; an image that is listed again counts once."""
    files: dict[object, set[str]] = defaultdict(set)
    for number, image in enumerate(images):
        files[_id(image, "id")].add(_name(image, number))
    captions: dict[object, list[str]] = {key: [] for key in files if key is not None}
    for number, annotation in enumerate(annotations):
        own, key = _id(annotation, "id"), _id(annotation, "image_id")
        name = f"annotation {number if own is None else own}"
        if key not in captions:
            bad.add(name, "it names no image" if key is None else f"there is no image {key}")
        elif not isinstance(annotation.get("caption"), str):
            bad.add(name, "it has no caption")
        else:
            captions[key].append(annotation["caption"])
    for number, image in enumerate(images):
        name, key = _name(image, number), _id(image, "id")
        if key is None:
            bad.add(name, "the image has no id")
        elif len(files[key]) > 1:  # nothing says whose its captions are
            bad.add(name, f"its id {key} is another image's too")
        elif key in captions:
            yield name, image, captions.pop(key)


def _karpathy(images: Sequence[Any], split: str | None, path: Path) -> Iterator[_Captioned]:
    if split and split not in KARPATHY_SPLITS:
        raise DataError(f"{path} has no split {split}; there are {', '.join(KARPATHY_SPLITS)}")
    for number, image in enumerate(images):
        if split is None or _field(image, "split") in KARPATHY_SPLITS[split]:
            sentences = _field(image, "sentences")
            captions = [_field(sentence, "raw") for sentence in sentences] if isinstance(sentences, list) else None
            yield _name(image, number), image, captions


def _field(entry: object, name: str) -> Any:
    """Give a field of an object, or None: files that others wrote have anything in their lists."""
    return entry.get(name) if isinstance(entry, Mapping) else None


def _id(entry: object, name: str) -> int | float | str | None:
    value = _field(entry, name)
    return value if isinstance(value, int | float | str) else None


def _name(image: object, number: int) -> str:
    """Tell what messages call an image."""
    return str(_field(image, "file_name") or _field(image, "filename") or f"image {number}")


def _path(image: object) -> Path:
    if isinstance(name := _field(image, "file_name"), str):
        return Path(name)
    folder, name = _field(image, "filepath"), _field(image, "filename")
    if not isinstance(name, str):
        raise DataError("the image has no file name")
    return Path(folder, name) if isinstance(folder, str) else Path(name)
