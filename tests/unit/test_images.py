"""Images: the reference's pixels for good ones, a code of the contract for every other sequence of bytes."""

import hashlib
import io
import json
import random
import struct
import subprocess
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ofa_serving.containers import jpeg_scans, jpeg_without_metadata
from ofa_serving.contract import CaptionError, Code
from ofa_serving.images import ImageLimits, load_pixels
from PIL import Image, PngImagePlugin

TESTS = Path(__file__).parents[1]
IMAGES = TESTS / "golden" / "data" / "images"
# SHA-256 of the reference's pixels as uint8 [S, S, 3], by file and S; recorded from ModelScope 1.40.2.
REFERENCE_PIXELS = json.loads((TESTS / "data" / "pixels.json").read_text())
SIZE = 64

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

rng = np.random.default_rng(0)
PICTURE = np.asarray(
    Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)).resize((90, 60), Image.Resampling.BICUBIC)
)


def encode(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(data: bytes, **limits) -> np.ndarray:
    return load_pixels(data, SIZE, ImageLimits(**limits))


def code(data: bytes, **limits) -> Code:
    with pytest.raises(CaptionError) as refusal:
        pixels(data, **limits)
    assert str(refusal.value) == f"{refusal.value.code}: {refusal.value.message}"
    return refusal.value.code


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(chunk: bytes, image: np.ndarray = PICTURE) -> bytes:
    """A PNG with ``chunk`` right behind its header."""
    data = encode(image, "PNG")
    return data[:33] + chunk + data[33:]


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


SAMPLES = {
    "jpeg": encode(PICTURE, "JPEG", quality=90),
    "progressive jpeg": encode(PICTURE, "JPEG", progressive=True),
    "png": encode(PICTURE, "PNG"),
    "webp": encode(PICTURE, "WEBP"),
    "lossless webp": encode(PICTURE, "WEBP", lossless=True),
    "gif": encode(PICTURE, "GIF"),
    "bmp": encode(PICTURE, "BMP"),
}


# --- The reference's result -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFERENCE_PIXELS)
def test_gives_the_references_pixels(name):
    data = (IMAGES / name).read_bytes()
    digests = {size: hashlib.sha256(load_pixels(data, int(size)).tobytes()).hexdigest() for size in ("128", "192")}
    assert digests == {size: REFERENCE_PIXELS[name][size] for size in digests}


def test_returns_uint8_rgb_that_the_caller_owns():
    result = pixels(SAMPLES["png"])
    assert (result.dtype, result.shape) == (np.uint8, (SIZE, SIZE, 3))
    assert result.flags.writeable and result.flags.c_contiguous


def test_an_image_of_the_right_size_is_not_resampled():
    picture = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    assert np.array_equal(pixels(encode(picture, "PNG")), picture)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_gives_the_upright_picture(kind, orientation):
    inverse = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Image.Transpose that undoes it
    upright = Image.fromarray(PICTURE)
    stored = upright if inverse is None else upright.transpose(Image.Transpose(inverse))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    difference = pixels(encode(stored, kind, exif=exif, **options)).astype(int) - pixels(SAMPLES["png"])
    assert np.abs(difference).max() <= (8 if kind == "JPEG" else 0)


def test_xmp_orientation_is_followed_as_by_the_reference():
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    assert np.array_equal(pixels(png_with(png_chunk(b"iTXt", xmp))), pixels(encode(PICTURE[::-1, ::-1], "PNG")))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.fromarray(picture).quantize(64) for picture in (PICTURE, 255 - PICTURE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    animation = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(pixels(animation), pixels(encode(frames[0], "PNG")))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA"])
def test_other_modes_are_converted_and_alpha_dropped_as_by_the_reference(mode):
    image = Image.fromarray(PICTURE).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(PICTURE[..., 0]))
    stored = image.convert("P") if mode == "PA" else image
    options = {"transparency": bytes(range(256))} if mode == "PA" else {}
    expected = stored.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    assert np.array_equal(pixels(encode(stored, "PNG", **options)), np.asarray(expected))


def test_cmyk_gives_its_rgb_twin():
    cmyk = encode(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert np.abs(pixels(cmyk).astype(int) - pixels(SAMPLES["png"])).max() <= 10


def test_ycck_is_read():
    cmyk = encode(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=100, subsampling=0)
    adobe = cmyk.index(b"Adobe")
    ycck = cmyk[: adobe + 11] + b"\x02" + cmyk[adobe + 12 :]
    assert pixels(ycck).shape == (SIZE, SIZE, 3)


def test_16_bit_greyscale_is_scaled_not_clipped():
    grey = PICTURE[..., 0]
    assert np.array_equal(pixels(encode(grey.astype(np.uint16) * 257, "PNG")), pixels(encode(grey, "PNG")))


# --- Refusals ---------------------------------------------------------------------------------------------------------


def test_no_bytes():
    assert code(b"") == Code.EMPTY_IMAGE


@pytest.mark.parametrize("magic", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\x24\0\0\0WEBP", b"BM"])
def test_a_magic_number_alone(magic):
    assert code(magic) == Code.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("length", [1, 16, 100, 5000])
def test_random_bytes(length):
    assert code(b"?" + random.Random(length).randbytes(length)) == Code.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "JPEG2000", "TGA", "PDF", "EPS", "AVIF"])
def test_formats_outside_the_list(kind):
    assert code(encode(PICTURE, kind)) == Code.UNSUPPORTED_FORMAT


@pytest.mark.parametrize(
    "data",
    [
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>',
        b"8BPS\0\1" + bytes(100),
        b"SIMPLE  =                    T" + bytes(2880),
        b"<!DOCTYPE html><html><body>not found</body></html>",
    ],
    ids=["svg", "psd", "fits", "html"],
)
def test_other_files(data):
    assert code(data) == Code.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("kind", SAMPLES)
def test_half_a_file(kind):
    assert code(SAMPLES[kind][: len(SAMPLES[kind]) // 2]) == Code.TRUNCATED_IMAGE


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_file_cut_within_its_header(kind):
    assert code(SAMPLES[kind][:40]) == Code.TRUNCATED_IMAGE


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg"])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_short_of_its_last_two_bytes_is_taken(kind, missing):
    assert np.array_equal(pixels(SAMPLES[kind][:-missing]), pixels(SAMPLES[kind]))


@pytest.mark.parametrize("missing", [3, 5, 20])
def test_a_jpeg_short_of_more_than_its_end_marker(missing):
    assert code(SAMPLES["jpeg"][:-missing]) == Code.TRUNCATED_IMAGE


def test_a_jpeg_with_a_zip_behind_it_is_taken():
    assert np.array_equal(pixels(SAMPLES["jpeg"] + b"PK\3\4" + bytes(500)), pixels(SAMPLES["jpeg"]))


def test_a_9000x9000_png_is_refused_before_it_is_decoded():
    compressor = zlib.compressobj(9)
    row = bytes(1 + 9000 * 3)
    body = b"".join(compressor.compress(row) for _ in range(9000)) + compressor.flush()
    bomb = png_header(9000, 9000) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    assert len(bomb) < 300_000
    tracemalloc.start()
    assert code(bomb) == Code.IMAGE_TOO_LARGE
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(("width", "height"), [(20000, 20000), (12000, 12000), (1, 65535), (20000, 1000), (4000, 19)])
def test_sizes_are_refused_from_the_header_alone(width, height):
    assert code(png_header(width, height) + png_chunk(b"IDAT", b"")) == Code.IMAGE_TOO_LARGE


def test_the_largest_size_is_taken():
    assert pixels(encode(Image.new("L", (5000, 5000), 7), "PNG"))[0, 0, 0] == 7
    assert code(encode(Image.new("L", (5001, 5000), 7), "PNG")) == Code.IMAGE_TOO_LARGE


PEAK = """
import re, sys
from pathlib import Path
from ofa_serving.images import load_pixels
def peak():  # of this program alone: ru_maxrss begins with what the process had that started it
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
data = open(sys.argv[1], "rb").read()
before = peak()
load_pixels(data, 480)
print((peak() - before) // 1024)
"""


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_the_largest_image_takes_a_few_times_its_pixels(tmp_path, mode):
    """The limit on pixels bounds the memory: JPEG's draft mode would take less and give other pixels."""
    (tmp_path / "largest.jpg").write_bytes(encode(Image.new(mode, (5000, 5000)), "JPEG"))
    command = [sys.executable, "-c", PEAK, tmp_path / "largest.jpg"]
    mebibytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert mebibytes < 3 * 5000 * 5000 * len(mode) / 2**20


def test_more_bytes_than_the_limit():
    assert code(SAMPLES["png"], max_bytes=len(SAMPLES["png"]) - 1) == Code.IMAGE_TOO_LARGE


def test_messages_say_the_size_and_the_limit():
    with pytest.raises(CaptionError, match="IMAGE_TOO_LARGE: the image is 90x60 pixels; at most 5000 in all"):
        pixels(SAMPLES["webp"], max_pixels=5000)


# --- Metadata ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [b"no profile", bytes(5 * 2**20), random.Random(0).randbytes(300_000)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_any_colour_profile_is_ignored(kind, profile):
    with_profile = pixels(encode(PICTURE, kind, icc_profile=profile))
    assert np.array_equal(with_profile, pixels(encode(PICTURE, kind)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_damaged_exif_is_ignored(kind, exif):
    assert np.array_equal(pixels(encode(PICTURE, kind, exif=exif)), pixels(encode(PICTURE, kind)))


def exif_bomb(size: int) -> bytes:
    """An EXIF block whose every tag claims all of its bytes."""
    tags = 5000
    entries = b"".join(struct.pack("<HHLL", 1000 + tag, 7, size, 0) for tag in range(tags))
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", tags) + entries).ljust(size, b"\0")


@pytest.mark.parametrize(
    "bomb",
    [
        png_with(png_chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(50 * 2**20), 9))),
        png_with(png_chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(50 * 2**20), 9)) * 50),
        png_with(png_chunk(b"iTXt", b"note\0\1\0\0\0" + zlib.compress(bytes(50 * 2**20), 9))),
        png_with(png_chunk(b"eXIf", exif_bomb(2**20))),
        encode(PICTURE, "WEBP", lossless=True, exif=b"Exif\0\0" + exif_bomb(2**20)),
    ],
    ids=["iCCP", "zTXt", "iTXt", "eXIf", "webp exif"],
)
def test_metadata_bombs_are_bounded_and_the_picture_taken(bomb):
    tracemalloc.start()
    result = pixels(bomb)
    assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    tracemalloc.stop()
    assert np.array_equal(result, pixels(SAMPLES["png"]))


def test_a_compressed_xmp_bomb_is_refused():
    bomb = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(50 * 2**20), 9))
    assert code(png_with(bomb)) == Code.UNSUPPORTED_FORMAT


def test_a_jpeg_with_thousands_of_scans_is_refused():
    data = SAMPLES["progressive jpeg"]
    last = data[data.rindex(b"\xff\xda") : -2]
    assert code(data[:-2] + last * 5000 + data[-2:]) == Code.UNSUPPORTED_FORMAT


def test_a_large_jpeg_may_have_fewer_scans():
    data = SAMPLES["progressive jpeg"]
    scans, pixel_count = jpeg_scans(data, 100), PICTURE.shape[0] * PICTURE.shape[1]
    assert scans > 2
    assert code(data, max_scanned=(scans - 1) * pixel_count) == Code.UNSUPPORTED_FORMAT
    pixels(data, max_scanned=scans * pixel_count)


def jpeg_with(*segments: bytes) -> bytes:
    """The sample, with what stands before all of its own segments."""
    data = SAMPLES["jpeg"]
    return data[:2] + b"".join(segments) + data[2:]


def segment(kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, kind, 2 + len(data)) + data


def gif_with_comment(comment: bytes) -> bytes:
    data = SAMPLES["gif"]
    screen = 13 + (3 << (data[10] & 7) + 1 if data[10] & 128 else 0)
    return data[:screen] + b"!\xfe" + comment + b"\0" + data[screen:]


@pytest.mark.parametrize(
    "flood",
    [
        jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(10)) * 100_000),
        jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 300),
        jpeg_with(segment(0xE5) * 500_000),
        jpeg_with(b"\xff\xd9" * 500_000),
        jpeg_with(segment(0xDB) * 500_000),
        SAMPLES["jpeg"][:-2] + segment(0xFE) * 500_000,
        png_with(png_chunk(b"IDAT", b"") * 200_000),
        png_with(png_chunk(b"noNe", b"") * 200_000),
        gif_with_comment(b"\1a" * 1_000_000),
    ],
    ids=["tiny EXIF", "EXIF", "APP5", "ends", "tables", "after the scan", "IDAT", "unknown chunk", "comment"],
)
def test_a_file_of_too_many_parts_is_refused(flood):
    """Of 2 MiB, not of 20: as Pillow reads them, the first would be the work of a minute."""
    assert code(flood) == Code.UNSUPPORTED_FORMAT


@pytest.mark.parametrize(
    "metadata",
    [
        [segment(0xE2, b"ICC_PROFILE\0" + bytes(65_000)) * 255],
        [segment(0xED, b"Photoshop 3.0\0" + b"8BIM\0\1\0\0\0\0\0\0" * 5000) * 50],
        [segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000)) * 50, segment(0xFE, b"a comment")],
        [b"\xff" * 2**20, segment(0xE5), b"padding" * 1000],
    ],
    ids=["profile", "Photoshop", "XMP", "padding"],
)
def test_what_else_a_jpeg_carries_changes_nothing(metadata):
    assert np.array_equal(pixels(jpeg_with(*metadata)), pixels(SAMPLES["jpeg"]))


@pytest.mark.parametrize("end", [b"", b"\xff\xe5\xff\xff", b"\xff\xe5", b"\xff"])
def test_a_jpeg_whose_header_is_cut_is_truncated(end):
    assert code(jpeg_with(segment(0xE5, bytes(100)))[:106] + end) == Code.TRUNCATED_IMAGE


def test_adobes_colours_and_orientation_stay():
    cmyk = encode(Image.fromarray(PICTURE).convert("CMYK"), "JPEG")
    assert b"Adobe" in cmyk
    assert jpeg_without_metadata(cmyk).count(b"Adobe") == 1
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(PICTURE, "JPEG", exif=exif, comment=b"a comment")
    assert np.array_equal(pixels(turned), pixels(encode(PICTURE, "JPEG", exif=exif)))
    assert not np.array_equal(pixels(turned), pixels(encode(PICTURE, "JPEG")))


@pytest.mark.parametrize("compression", [1, 2], ids=["RLE8", "RLE4"])
def test_a_bmp_of_run_lengths_is_refused(compression):
    """Of 25 megapixels it would be seconds of work, though its every row is four bytes."""
    size, bits = (16_000, 1_560), 8 // compression
    colours, rows = bytes(4 * 2**bits), b"\1\0\0\0" * size[1]  # a pixel, and the rest of the row
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(rows), 0, 0, 0, 0)
    start = 14 + len(header) + len(colours)
    bomb = struct.pack("<2sIII", b"BM", start + len(rows), 0, start) + header + colours + rows
    assert code(bomb) == Code.UNSUPPORTED_FORMAT


def test_text_in_a_png_changes_nothing():
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "a picture")
    info.add_itxt("Comment", "of noise", zip=True)
    assert np.array_equal(pixels(encode(PICTURE, "PNG", pnginfo=info)), pixels(SAMPLES["png"]))


# --- Whatever the bytes -----------------------------------------------------------------------------------------------


def mutate(data: bytes, chance: random.Random) -> bytes:
    mutant = bytearray(data)
    for _ in range(chance.choice([1, 3, 30])):
        mutant[chance.randrange(len(mutant))] ^= 1 << chance.randrange(8)
    return bytes(mutant[: chance.randrange(1, len(mutant))] if chance.random() < 0.2 else mutant)


@pytest.mark.parametrize("kind", SAMPLES)
def test_bit_flips_give_pixels_or_a_refusal(kind):
    chance = random.Random(kind)
    outcomes = {"pixels": 0, "refusal": 0}
    for _ in range(300):
        try:
            assert pixels(mutate(SAMPLES[kind], chance)).shape == (SIZE, SIZE, 3)
            outcomes["pixels"] += 1
        except CaptionError as refusal:
            assert refusal.code in (Code.UNSUPPORTED_FORMAT, Code.TRUNCATED_IMAGE, Code.IMAGE_TOO_LARGE)
            outcomes["refusal"] += 1
    assert all(outcomes.values())


def test_threads_do_not_disturb_each_other():
    work = [*SAMPLES.values()] * 8
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(pixels, work))
    assert all(np.array_equal(result, pixels(data)) for result, data in zip(results, work, strict=True))


def test_nothing_is_written_to_the_log_for_a_large_or_odd_image(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_header(12000, 12000) + png_chunk(b"IDAT", b""))
    (tmp_path / "exif.png").write_bytes(png_with(png_chunk(b"eXIf", exif_bomb(2**16))))
    program = (
        "import sys, pathlib\n"
        "from ofa_serving.contract import CaptionError\n"
        "from ofa_serving.images import load_pixels\n"
        "for path in sys.argv[1:]:\n"
        "    try: load_pixels(pathlib.Path(path).read_bytes(), 32)\n"
        "    except CaptionError as error: print(error.code)\n"
    )
    paths = [str(tmp_path / name) for name in ("bomb.png", "exif.png")]
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("IMAGE_TOO_LARGE\n", "")
