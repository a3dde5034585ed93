"""From an image file's bytes to the pixels the encoder takes, exactly as the reference makes them.

The picture is turned upright by its EXIF orientation, made RGB and resized (Pillow's bicubic, antialiased) to a square
without a crop. What cannot be captioned is refused with a :class:`~ofa_serving.contract.CaptionError`, and nothing
else is raised, whatever the bytes are.
"""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import dataclass

import numpy as np

# Importing a plugin registers its format; without this the first WebP would import every format Pillow knows.
from PIL import (
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    ImageChops,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from ofa_serving.containers import JPEG_SIGNATURE, Header, ScatteredError, jpeg_scans, without_metadata
from ofa_serving.contract import CaptionError, Code

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""The formats that are opened; Pillow's others are never tried."""

_SHORTEST_HEADER = 32
"""Bytes; a shorter file is a magic number at most, not an image that was cut off."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_RUN_LENGTHS = (1, 2)
"""A BMP header's words for run lengths, which Pillow decodes in Python: 7 kB of them take seconds."""

_JPEG_END = b"\xff\xd9"
_JPEG_FILLER = b"\xaa\x55" * 64  # decodes to something else than the zeros libjpeg puts where data is missing

# Pillow warns of odd EXIF tags, one line each, and of large images: neither is news to the server's log.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class ImageLimits:
    """What an image may be at most; those of bytes and of scans are not read from its header."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 25_000_000
    max_side: int = 16_384
    max_aspect: int = 200  # longer side over shorter side
    max_scans: int = 100  # of a JPEG; cameras and editors write 10 or so
    max_scanned: int = 500_000_000  # pixels of all its scans: each is a pass over the whole picture


def load_pixels(data: bytes, size: int, limits: ImageLimits | None = None) -> np.ndarray:
    """Decode the picture in ``data`` into what the encoder takes.

    Args:
        data: an image file's bytes: JPEG, PNG, WebP, GIF or BMP; the first frame of an animation is used.
        size: the side of the square the checkpoint expects, in pixels.
        limits: what is refused before a pixel is decoded.

    Returns:
        uint8 [size, size, 3], RGB.

    Raises:
        CaptionError: EMPTY_IMAGE, UNSUPPORTED_FORMAT, TRUNCATED_IMAGE or IMAGE_TOO_LARGE.

    """
    limits = limits or ImageLimits()
    _check_bytes(data, limits)
    try:
        picture = without_metadata(data)
        image = _open(picture, len(data), limits)
        _check_scans(picture, image, limits)
    except ScatteredError as error:
        raise CaptionError(Code.UNSUPPORTED_FORMAT, "the image's file is made of too many parts") from error
    try:
        image = _rgb(_upright(_decode(image, picture)))
        return np.array(image.resize((size, size), Image.Resampling.BICUBIC))
    except MemoryError as error:
        raise _too_large("the image needs more memory than there is") from error
    except Exception as error:
        raise _truncated() from error


def _check_bytes(data: bytes, limits: ImageLimits) -> None:
    if not data:
        raise CaptionError(Code.EMPTY_IMAGE, "the image has no bytes")
    if len(data) > limits.max_bytes:
        raise _too_large(f"the image has {len(data)} bytes; at most {limits.max_bytes} are taken")


def _check_scans(data: bytes, image: Image.Image, limits: ImageLimits) -> None:
    most = min(limits.max_scans, limits.max_scanned // (image.width * image.height))
    if data.startswith(JPEG_SIGNATURE) and jpeg_scans(data, most) > most:
        raise CaptionError(Code.UNSUPPORTED_FORMAT, f"a JPEG of this size may have {most} scans at most")


def _open(data: bytes, sent: int, limits: ImageLimits) -> Image.Image:
    """Read the header and check the size, of a file that was ``sent`` bytes long; no pixel is decoded."""
    stream = Header(data)
    try:
        image = Image.open(stream, formats=FORMATS)
    except ScatteredError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(f"the image has more than {limits.max_pixels} pixels") from error
    except Exception as error:
        # Only the plugin whose magic number fits has read on, so a read to the end means that the header is cut.
        if not stream.rest() and sent >= _SHORTEST_HEADER:
            raise _truncated() from error
        raise _unsupported(error) from error
    stream.patience = math.inf
    _check_size(image, limits)
    if image.format == "BMP" and image.info["compression"] in _RUN_LENGTHS:
        raise CaptionError(Code.UNSUPPORTED_FORMAT, "a BMP that is compressed by run lengths is not taken")
    return image


def _check_size(image: Image.Image, limits: ImageLimits) -> None:
    width, height = image.size
    says = f"the image is {width}x{height} pixels"
    if width * height > limits.max_pixels:
        raise _too_large(f"{says}; at most {limits.max_pixels} in all are taken")
    if max(width, height) > limits.max_side:
        raise _too_large(f"{says}; at most {limits.max_side} a side are taken")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise _too_large(f"{says}; the longer side may be {limits.max_aspect} times the shorter at most")


def _decode(image: Image.Image, data: bytes) -> Image.Image:
    try:
        image.load()
    except OSError:
        if not data.startswith(JPEG_SIGNATURE):
            raise
        return _decode_without_end_marker(data)
    return image


def _decode_without_end_marker(data: bytes) -> Image.Image:
    """Decode a JPEG that lacks its end marker and nothing else.

    Then it does not matter what stands between its data and an end marker put there; in a file that lacks more, the
    missing pixels are made of it.

    Raises:
        OSError: if more is missing.

    """
    data = data.removesuffix(_JPEG_END[:1])
    image, other = (
        Image.open(io.BytesIO(data + ending), formats=["JPEG"]) for ending in (_JPEG_END, _JPEG_FILLER + _JPEG_END)
    )
    if ImageChops.difference(image, other).getbbox() is not None:
        raise OSError("the JPEG lacks more than its end marker")
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Turn the loaded image as its EXIF or XMP orientation says; unreadable metadata counts as none."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises many kinds on damaged metadata; the picture itself is good
        return image
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        # Pillow's conversion clips 16-bit greyscale to white; its own reading of 16-bit RGB takes the high byte.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _too_large(message: str) -> CaptionError:
    return CaptionError(Code.IMAGE_TOO_LARGE, message)


def _truncated() -> CaptionError:
    return CaptionError(Code.TRUNCATED_IMAGE, "the image's data ends early or is damaged")


def _unsupported(error: Exception) -> CaptionError:
    if isinstance(error, UnidentifiedImageError):
        return CaptionError(Code.UNSUPPORTED_FORMAT, "the image is not a JPEG, PNG, WebP, GIF or BMP file")
    return CaptionError(Code.UNSUPPORTED_FORMAT, "the image is of a kind of its format that cannot be read")
