"""The client against the real server: ModelScope's captions and scores, and the contract's errors, by one call."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from cases import CASES, DATA
from ofa_client import Captioner, contract, errors
from PIL import Image

CASE = CASES[0]


@pytest.fixture(params=["grpc", "http"])
def served_url(request, server):
    return f"grpc://{server.grpc_url}" if request.param == "grpc" else server.http_url


@pytest.fixture
def served(served_url):
    with Captioner(served_url, model=CASE.model_name) as captioner:
        yield captioner


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_captions_are_the_reference_s(served_url, case):
    with Captioner(served_url, model=case.model_name) as captioner:
        for name, [text] in zip(case.record["images"], case.record["captions"]):
            assert captioner.caption(DATA / "images" / name).text == text


def test_hypotheses_and_scores_are_the_reference_s(served):
    settings, hypotheses = CASE.searches[0]
    for image, wanted in zip(CASE.images, hypotheses):
        captions = served.captions(image, details=True, **{**asdict(settings), "num_captions": len(wanted)})
        assert [caption.tokens for caption in captions] == [tuple(h["tokens"]) for h in wanted]
        assert [caption.score for caption in captions] == pytest.approx([h["score"] for h in wanted], abs=1e-3)
        for caption, hypothesis in zip(captions, wanted):
            assert caption.token_logprobs == pytest.approx(hypothesis["positional_scores"], abs=1e-3)
            assert tuple(caption.timing_ms) == contract.STAGES


@pytest.mark.parametrize("name", CASE.record["images"])
def test_an_opened_image_is_captioned_as_its_file(served, name):
    path = DATA / "images" / name
    with Image.open(path) as image:
        assert served.caption(image) == served.caption(path)


def test_an_array_is_captioned_as_its_image(served):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 121, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert served.captions(pixels, num_captions=3) == served.captions(file.getvalue(), num_captions=3)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (b"", errors.EmptyImageError),
        (b"no image at all", errors.UnsupportedFormatError),
        (CASE.images[0][: len(CASE.images[0]) // 2], errors.TruncatedImageError),
        (Image.new("L", (1, 65_500)), errors.ImageTooLargeError),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_images_raise_their_errors(served, image, kind):
    with pytest.raises(kind):
        served.caption(image)


OUT_OF_RANGE = [
    {"beam_size": 17},
    {"beam_size": 10**30},
    {"num_captions": 0},
    {"temperature": 0},
    {"temperature": np.nan},
]


@pytest.mark.parametrize("options", OUT_OF_RANGE, ids=str)
def test_values_out_of_range_raise_their_error(served, options):
    with pytest.raises(errors.InvalidParameterError, match=next(iter(options))):
        served.captions(CASE.images[0], **options)


def test_a_deadline_too_short_raises_its_error(served):
    with pytest.raises(errors.DeadlineExceededError):
        served.caption(CASE.images[0], timeout=0.001)
    assert served.caption(CASE.images[0]).text == CASE.record["captions"][0][0]


def test_the_command_line_prints_the_reference_s_captions(served_url, tmp_path):
    paths = [str(DATA / "images" / name) for name in CASE.record["images"]]
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    result = subprocess.run(
        [sys.executable, "-m", "ofa_client", "--json", *paths, str(tmp_path / "bad.jpg")],
        env={**os.environ, "OFA_URL": served_url, "OFA_MODEL": CASE.model_name},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["image"] for record in records] == paths
    assert [[caption["text"] for caption in record["captions"]] for record in records] == CASE.record["captions"]
    assert result.stderr.startswith(f"{tmp_path / 'bad.jpg'}: UNSUPPORTED_FORMAT: ")
    assert result.returncode == 1
