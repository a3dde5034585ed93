"""Any image a caller has at hand, as the bytes of an image file."""

from __future__ import annotations

import io
import os
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Union

import numpy as np

from ofa_client.contract import MAX_IMAGE_BYTES
from ofa_client.errors import ImageTooLargeError

if TYPE_CHECKING:
    from PIL.Image import Image

ImageSource = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, BinaryIO, "Image", np.ndarray]
"""A path, a URL, an image file's bytes, a binary file, a Pillow image, or RGB uint8 [height, width, 3]."""

_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
_EXIF_ORIENTATION = 0x0112


def is_url(source: object) -> bool:
    """Tell whether an image source is the URL of an image, which :mod:`ofa_client.fetch` reads."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def refuse_size(size: int, name: object) -> None:
    """Refuse what the server takes from nobody: unread and not encoded, where its size is known by then.

    Raises:
        ImageTooLargeError: so many bytes are too many.
    """
    if size > MAX_IMAGE_BYTES:
        raise ImageTooLargeError(f"{name} is larger than {MAX_IMAGE_BYTES >> 20} MiB")


def read_image(source: ImageSource) -> bytes:
    """Return the bytes of an image file; arrays and Pillow images are encoded without loss.

    Raises:
        ImageTooLargeError: more than 20 MiB.
        OSError: the file cannot be read.
        TypeError, ValueError: not an image source, or an array that is not uint8 [height, width, 3].
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        refuse_size(memoryview(source).nbytes, "the image")
        return bytes(source)
    if isinstance(source, (str, os.PathLike)):
        with Path(source).open("rb") as file:
            refuse_size(os.fstat(file.fileno()).st_size, source)
            return _content(file, source)  # a device has no size
    if isinstance(source, np.ndarray):
        return _bmp(source)
    if _is_pillow(source):
        return _png(source)
    if hasattr(source, "read"):
        return _content(source, "the image")
    raise TypeError(
        f"an image is a path, bytes, a binary file, a Pillow image or a numpy array, not {type(source).__name__}"
    )


def _content(file: BinaryIO, name: object) -> bytes:
    """Read a file to its end, which may never come, and each read may give less than it is asked for."""
    data = bytearray()
    while True:
        part = file.read(MAX_IMAGE_BYTES + 1 - len(data))
        if not isinstance(part, bytes):
            raise TypeError("the image file must be opened in binary mode")
        if not part:
            return bytes(data)
        data += part
        refuse_size(len(data), name)


def _bmp(pixels: np.ndarray) -> bytes:
    """Encode RGB uint8 [height, width, 3] as a BMP file: no library, no compression to wait for."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(
            f"an image array must be RGB uint8 [height, width, 3], not {pixels.dtype} {list(pixels.shape)}"
        )
    height, width, _ = pixels.shape
    stride = (width * 3 + 3) // 4 * 4  # each row is filled up to four bytes
    refuse_size(height * stride, "the array")
    rows = np.zeros((height, stride), np.uint8)
    rows[:, : width * 3] = pixels[::-1, :, ::-1].reshape(height, width * 3)  # bottom row first, BGR
    file_header_size, info_header_size = 14, 40
    offset = file_header_size + info_header_size
    header = struct.pack("<2sIHHI", b"BM", offset + rows.nbytes, 0, 0, offset)
    info = struct.pack("<IiiHHIIiiII", info_header_size, width, height, 1, 24, 0, rows.nbytes, 0, 0, 0, 0)
    return header + info + rows.tobytes()


def _is_pillow(source: object) -> bool:
    """Tell whether this is a Pillow image, without importing Pillow for callers who have none."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(source, pillow.Image)


def _png(image: Any) -> bytes:
    """Encode a Pillow image as PNG, upright: PNG would lose the EXIF orientation that the server honours in files."""
    from PIL import ImageOps  # noqa: PLC0415 - only a caller who has Pillow comes here

    if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode not in _PNG_MODES:
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    refuse_size(buffer.tell(), "the image as PNG")
    return buffer.getvalue()
