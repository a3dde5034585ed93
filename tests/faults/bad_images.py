"""Image files that must be refused, each with its code, and odd ones that must be captioned."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from cases import DATA
from PIL import Image

PHOTO = (DATA / "images" / "rgb0.jpg").read_bytes()


def _encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _png_header(width, height):
    """A PNG whose header claims a size and that holds no pixel."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 1 << 20) + b"IDAT"


def _scene():
    return Image.open(io.BytesIO(PHOTO)).convert("RGB")


def _animated():
    frames = [_scene(), Image.new("RGB", _scene().size)]
    return _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


REFUSED = {
    "no bytes": (b"", "EMPTY_IMAGE"),
    "random bytes": (np.random.default_rng(0).bytes(500), "UNSUPPORTED_FORMAT"),
    "a magic number only": (PHOTO[:4], "UNSUPPORTED_FORMAT"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "UNSUPPORTED_FORMAT"),
    "TIFF": (_encoded(Image.new("RGB", (9, 9)), "TIFF"), "UNSUPPORTED_FORMAT"),
    "half a JPEG": (PHOTO[: len(PHOTO) // 2], "TRUNCATED_IMAGE"),
    "9000x9000 PNG": (_encoded(Image.new("1", (9000, 9000)), "PNG"), "IMAGE_TOO_LARGE"),
    "12000x12000 PNG": (_png_header(12000, 12000), "IMAGE_TOO_LARGE"),
    "1x65535": (_encoded(Image.new("L", (1, 65535)), "PNG"), "IMAGE_TOO_LARGE"),
    "a header of 20000x20000 and no data": (_png_header(20000, 20000), "IMAGE_TOO_LARGE"),
}

ACCEPTED = {
    "CMYK": _encoded(_scene().convert("CMYK"), "JPEG"),
    "16 bits": _encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16), "PNG"),
    "animated": _animated(),
    "EXIF-rotated": (DATA / "images" / "exif6.jpg").read_bytes(),
    "palette with alpha": _encoded(_scene().convert("P"), "PNG", transparency=3),
    "short of its last two bytes": PHOTO[:-2],
    "with a ZIP behind it": PHOTO + b"PK\x03\x04" + bytes(100),
}
