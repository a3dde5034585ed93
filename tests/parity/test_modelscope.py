"""ModelScope's pipeline, live, against this project: structures and images that are not in the golden records.

Run by ``make parity``, which makes ModelScope's environment and names its Python in MODELSCOPE_PYTHON.
"""

import io
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ofa_build.artifact import build_artifact
from ofa_build.checkpoint import load_checkpoint
from ofa_build.repository import Serving
from ofa_serving.images import load_pixels
from ofa_serving.local import LocalCaptioner
from PIL import Image
from variants import VARIANTS, write

PEER = Path(__file__).parent / "modelscope_peer.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Files of odd sizes and modes: noise over gradients, so that captions differ."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(11)
    paths = []
    for number, (size, mode, suffix) in enumerate(
        [((97, 203), "RGB", "png"), ((640, 360), "RGB", "jpg"), ((50, 50), "LA", "png"), ((333, 500), "P", "png")]
    ):
        ramp = np.linspace(0, 255, size[0])[None, :, None] * random.uniform(0, 1, 3)
        pixels = (ramp + random.integers(0, 80, (size[1], size[0], 3))).clip(0, 255).astype(np.uint8)
        path = folder / f"{number}.{suffix}"
        Image.fromarray(pixels).convert(mode).save(path)
        paths.append(path)
    return paths


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_hypothesis_is_modelscope_s(variant, images, tmp_path):
    write(variant, tmp_path / "checkpoint", seed=list(VARIANTS).index(variant))
    command = [os.environ["MODELSCOPE_PYTHON"], PEER, tmp_path / "checkpoint", *images]
    peer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert peer.returncode == 0, peer.stderr[-2000:]
    wanted = [json.loads(line) for line in io.StringIO(peer.stdout) if line.startswith("{")]

    checkpoint = load_checkpoint(str(tmp_path / "checkpoint"))
    build_artifact(checkpoint, variant, "variant", tmp_path, Serving())
    with LocalCaptioner(tmp_path / "variant" / "model_repository", "variant") as captioner:
        files = [path.read_bytes() for path in images]
        size = checkpoint.settings.patch_image_size
        hidden = captioner.encode(np.stack([load_pixels(file, size) for file in files]))
        results = captioner.search(hidden, captioner.defaults)
        captions = captioner.captions(files)
    for result, caption, want in zip(results, captions, wanted, strict=True):
        assert [h.tokens.tolist() for h in result.hypotheses] == [h["tokens"] for h in want["hypotheses"]]
        scores = [h["score"] for h in want["hypotheses"]]
        np.testing.assert_allclose([h.score for h in result.hypotheses], scores, rtol=0, atol=1e-3)
        assert caption == want["captions"]
