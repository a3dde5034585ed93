"""Every kind of image a caller may pass becomes an image file that decodes to the same pixels."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from ofa_client import ImageTooLargeError
from ofa_client.contract import MAX_IMAGE_BYTES
from ofa_client.images import read_image
from PIL import Image

RANDOM = np.random.default_rng(0)


@pytest.fixture
def picture():
    return RANDOM.integers(0, 256, (7, 5, 3), np.uint8)


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_bytes_and_files_travel_as_they_are(tmp_path):
    path = tmp_path / "photo.jpg"
    data = b"any bytes"
    path.write_bytes(data)
    for source in (str(path), path, data, bytearray(data), memoryview(data), io.BytesIO(data)):
        assert read_image(source) == data
    with path.open("rb") as file:
        assert read_image(file) == data


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 5), (3, 6), (4, 8), (300, 301)])
def test_an_array_is_encoded_without_loss(height, width):
    pixels = RANDOM.integers(0, 256, (height, width, 3), np.uint8)
    np.testing.assert_array_equal(decoded(read_image(pixels)), pixels)


def test_an_array_may_be_a_view(picture):
    np.testing.assert_array_equal(decoded(read_image(picture[::2, ::-1])), picture[::2, ::-1])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=["float", "grey", "rgba", "channels first", "empty"],
)
def test_another_array_is_refused_in_words(array):
    with pytest.raises(ValueError, match=r"must be RGB uint8 \[height, width, 3\], not"):
        read_image(array)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_a_pillow_image_keeps_its_pixels(picture, mode):
    image = Image.fromarray(picture).convert(mode)
    np.testing.assert_array_equal(decoded(read_image(image)), np.asarray(image.convert("RGB")))


def test_a_pillow_image_keeps_its_transparency(picture):
    image = Image.fromarray(picture).convert("RGBA")
    image.putalpha(100)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(read_image(image)))), np.asarray(image))


def test_a_pillow_image_of_16_bits_keeps_them():
    image = Image.fromarray(np.array([[0, 300], [40_000, 65_535]], np.uint16))
    assert image.mode == "I;16"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(read_image(image)))), np.asarray(image))


def test_a_pillow_image_is_turned_upright_as_its_file_would_be(picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is on the right
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(decoded(read_image(Image.open(file))), np.rot90(picture, k=-1))


def test_a_missing_file_is_pythons_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "missing.jpg")


def test_what_is_too_large_for_the_server_is_refused_unread(tmp_path):
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(2**40)
    data = bytes(MAX_IMAGE_BYTES + 1)
    for source in (
        *(tmp_path / "huge.jpg", "/dev/zero", np.broadcast_to(np.uint8(0), (40_000, 40_000, 3))),
        *(data, bytearray(data), memoryview(data), io.BytesIO(data)),
    ):
        with pytest.raises(ImageTooLargeError, match="is larger than 20 MiB"):
            read_image(source)


def test_nor_is_a_file_read_on_whose_end_does_not_come():
    class Endless:
        given = 0

        def read(self, size=-1):
            assert size > 0  # all of it
            self.given += min(size, 1 << 20)
            return bytes(min(size, 1 << 20))

    endless = Endless()
    with pytest.raises(ImageTooLargeError, match="the image is larger than 20 MiB"):
        read_image(endless)
    assert endless.given == MAX_IMAGE_BYTES + 1


def test_a_pillow_image_is_refused_that_is_too_large_as_png():
    noise = Image.fromarray(RANDOM.integers(0, 256, (2650, 2650, 3), np.uint8))
    with pytest.raises(ImageTooLargeError, match="the image as PNG is larger than 20 MiB"):
        read_image(noise)


def test_a_file_may_come_in_pieces():
    pieces = [b"any ", b"by", b"tes", b""]
    assert read_image(SimpleNamespace(read=lambda _size: pieces.pop(0))) == b"any bytes"


def test_a_file_in_text_mode_is_refused():
    with pytest.raises(TypeError, match="binary mode"):
        read_image(io.StringIO("text"))


def test_what_is_no_image_is_refused():
    with pytest.raises(TypeError, match=r"a path, bytes, .* not dict"):
        read_image({})
