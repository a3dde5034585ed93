"""One training step, live, by ModelScope's trainer's own parts and by this project's: loss and every gradient."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import CASES
from ofa_build.checkpoint import load_checkpoint
from ofa_build.data.batches import Encoding
from ofa_build.data.records import Record, file_reader
from ofa_build.evaluation.search import normalise_pixels
from ofa_build.training.objectives import CrossEntropy
from ofa_build.training.recipe import Recipe
from ofa_build.training.run import student

STEP = Path(__file__).parent / "modelscope_step.py"
CAPTIONS = {
    "en": ["The image, of a dog's  red ball!", "what", "does the image describe (again and again)?"],
    "zh": ["图片描述了什么", "什么内容", "a dog 图片"],
}
RECIPE = Recipe(dropout=0.0, drop_path=0.0, freeze=(), drop_worst=0.2, drop_worst_after=1)
TOLERANCE = 1e-4


def modelscope_step(case, folder: Path, texts: list[str]) -> tuple[Path, list[Path], dict[str, np.ndarray]]:
    """Run ModelScope's step on a copy of a golden checkpoint without dropout."""
    checkpoint = folder / "checkpoint"
    shutil.copytree(case.checkpoint, checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    still = {key: 0.0 for key in config if "drop" in key}
    (checkpoint / "config.json").write_text(json.dumps(config | still))
    (folder / "captions.json").write_text(json.dumps(texts))
    images = [folder / image for image in case.record["images"][: len(texts)]]
    for path, content in zip(images, case.images, strict=False):
        path.write_bytes(content)
    command = [os.environ["MODELSCOPE_PYTHON"], STEP, checkpoint, folder / "step.npz", folder / "captions.json"]
    peer = subprocess.run([*command, *images], capture_output=True, text=True, check=False)
    assert peer.returncode == 0, peer.stderr[-2000:]
    return checkpoint, images, dict(np.load(folder / "step.npz"))


@pytest.mark.parametrize("name", ["en-default", "zh-default", "en-shared-bias"])
def test_loss_and_gradients_are_modelscopes(name, tmp_path):
    case = next(case for case in CASES if case.name == name)
    texts = CAPTIONS[name[:2]]
    folder, images, wanted = modelscope_step(case, tmp_path, texts)

    checkpoint = load_checkpoint(folder)
    encoding = Encoding(checkpoint.tokenizer, checkpoint.settings.patch_image_size, max_words=256, max_tokens=256)
    records = [Record(path.name, file_reader(path), (text,)) for path, text in zip(images, texts, strict=True)]
    batch = encoding.collate([encoding.example(record, (number, 0)) for number, record in enumerate(records)])
    assert batch.targets.tolist() == wanted["target"].tolist()
    pixels = normalise_pixels(batch.pixels, checkpoint.settings).numpy()
    np.testing.assert_allclose(pixels, wanted["pixels"], rtol=0, atol=1e-6)

    prompt = checkpoint.tokenizer.encode_prompt(checkpoint.settings.prompt)
    for update, mode in enumerate(("plain", "dropped")):
        # Laid out as ModelScope's: where rounding decides which way a ReLU or a maximum goes, a gradient jumps, and the
        # layout that training uses rounds otherwise. That it is the same function: training/test_layout.py.
        model = student(checkpoint, RECIPE).to(memory_format=torch.contiguous_format).train()
        objective = CrossEntropy(model, checkpoint.settings, prompt, RECIPE)
        tokens = objective.units(batch, update)["token"]
        terms = objective(batch, update)
        (terms["loss"].value / tokens).backward()
        assert tokens == wanted[f"{mode}/tokens"]
        assert terms["loss"].value.item() / tokens == pytest.approx(float(wanted[f"{mode}/loss"]), abs=TOLERANCE)
        assert terms["nll"].value.item() / tokens == pytest.approx(float(wanted[f"{mode}/nll"]), abs=TOLERANCE)
        gradients = {key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None}
        theirs = {key.split("/gradient/")[1] for key in wanted if key.startswith(f"{mode}/gradient/")}
        assert theirs <= set(gradients) | {key for key in theirs if not wanted[f"{mode}/gradient/{key}"].any()}
        for key, gradient in gradients.items():
            difference = np.abs(gradient.numpy() - wanted[f"{mode}/gradient/{key}"]).max()
            assert difference <= TOLERANCE, key
