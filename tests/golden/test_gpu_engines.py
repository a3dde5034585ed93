"""The engines made for a GPU. Without one they run on the host, which is all of their code but CuPy's and CUDA's."""

import importlib.util
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from cases import CASES
from ofa_build.artifact import build_artifact
from ofa_build.checkpoint import load_checkpoint
from ofa_build.model import OFA
from ofa_build.repository import Serving
from ofa_serving.engines.device import Device, on_host
from ofa_serving.engines.onnxruntime_device import DeviceEngine, rounded
from ofa_serving.images import load_pixels
from ofa_serving.local import LocalCaptioner
from searching import assert_hypotheses

TENSORRT = pytest.mark.skipif(not importlib.util.find_spec("tensorrt"), reason="needs TensorRT")

ENGINES = [
    pytest.param("onnxruntime", "host", id="onnxruntime on the host"),
    pytest.param("onnxruntime", "gpu", id="onnxruntime", marks=pytest.mark.gpu),
    pytest.param("tensorrt", "gpu", id="tensorrt", marks=[pytest.mark.gpu, TENSORRT]),
]
EXACT = [
    pytest.param(case, *engine.values, id=f"{case.name}, {engine.id}", marks=engine.marks)
    for engine in ENGINES
    for case in (CASES if engine.marks else CASES[1:2])
]
HALF_TOLERANCE = 0.05
FEW = 3


def pixels_of(case):
    size = load_checkpoint(str(case.checkpoint)).settings.patch_image_size
    return np.stack([load_pixels(image, size) for image in case.images])


@pytest.fixture(scope="module")
def built(artifacts, tmp_path_factory):
    """A function that gives a case's repository for an engine, device and precision; plans are built on the spot."""
    plans = tmp_path_factory.mktemp("plans")

    def build(case, engine, device, precision):
        if engine != "tensorrt":
            return artifacts(case, precision) / "model_repository"
        name, folder = artifacts(case, precision).name, plans / f"{case.name}-{precision}"
        if not folder.exists():
            serving = Serving.on(device, engine, precision)
            build_artifact(load_checkpoint(str(case.checkpoint)), case.name, name, folder, serving)
        return folder / name / "model_repository"

    return build


@pytest.mark.parametrize(("case", "engine", "device"), EXACT)
def test_every_hypothesis_in_fp32(case, built, engine, device):
    repository = built(case, engine, device, "fp32")
    with LocalCaptioner(repository, case.model_name, engine=engine, device=device) as captioner:
        hidden = captioner.encode(pixels_of(case))
        np.testing.assert_allclose(on_host(hidden), case.tensors["encoder_hidden"], rtol=0, atol=1e-4)
        for settings, recorded in case.searches:
            assert_hypotheses([found.hypotheses for found in captioner.search(hidden, settings)], recorded)


@pytest.mark.parametrize(("engine", "device"), ENGINES)
def test_fp16_states_and_scores_are_near(built, engine, device):
    case = CASES[0]
    repository = built(case, engine, device, "fp16")
    with LocalCaptioner(repository, f"{case.model_name}_fp16", engine=engine, device=device) as captioner:
        hidden = captioner.encode(pixels_of(case))
        usual = replace(captioner.defaults, num_captions=captioner.defaults.beam_size)
        found = captioner.search(hidden, usual)
    assert on_host(hidden).dtype == np.float16
    np.testing.assert_allclose(on_host(hidden), case.tensors["encoder_hidden"], rtol=0, atol=HALF_TOLERANCE)
    (recorded,) = (wanted for settings, wanted in case.searches if settings == usual)
    best = [result.hypotheses[0].score for result in found]
    np.testing.assert_allclose(best, [wanted[0]["score"] for wanted in recorded], rtol=0, atol=HALF_TOLERANCE)


def test_the_exported_fp16_encoder_is_torch_s_in_half_precision(artifacts):
    case = CASES[0]
    checkpoint = load_checkpoint(str(case.checkpoint))
    model = OFA(checkpoint.config).eval()
    model.load_state_dict(dict(checkpoint.state_dict))
    with torch.inference_mode():
        pixels, prompt = torch.from_numpy(case.tensors["pixels"][:FEW]), torch.tensor(case.record["prompt_ids"])
        wanted, _ = model.half().encoder(pixels.half(), prompt)
    with LocalCaptioner(artifacts(case, "fp16") / "model_repository", f"{case.model_name}_fp16") as captioner:
        hidden = captioner.encode(pixels_of(case)[:FEW])
    # Both are rounded at every layer, in different orders.
    np.testing.assert_allclose(hidden, wanted, rtol=0, atol=2 * HALF_TOLERANCE)


@pytest.fixture
def decoder(artifacts):
    case = CASES[0]
    folder = artifacts(case) / "model_repository" / f"{case.model_name}_beam_search" / "1"
    return DeviceEngine(folder, Device.named("host")), list(case.tensors["encoder_hidden"])


def first_step(batch, captions, beams):
    ancestors = np.full((captions, beams, 2), -1)
    ancestors[:, :, 0] = np.arange(beams)
    tokens, steps = np.zeros((captions, beams), np.int64), np.zeros(captions, np.int64)
    return batch.step(tokens, steps, ancestors, np.ones(captions, np.float32), 13)


def test_rows_without_a_caption_change_nothing(decoder):
    engine, states = decoder
    assert rounded(5) > 5
    batch = engine.open(3)
    batch.join(states[:5])
    together = first_step(batch, 5, 3)
    batch.keep([4])
    alone = first_step(batch, 1, 3)
    assert together.ids.shape == (5, 3, 13)
    assert together.ids[4].tolist() == alone.ids[0].tolist()
    np.testing.assert_allclose(together.logprobs[4], alone.logprobs[0], rtol=0, atol=1e-5)


def test_a_row_forgets_its_last_caption(decoder):
    engine, states = decoder
    batch = engine.open(2)
    batch.join(states[:1])
    clean = first_step(batch, 1, 2)
    for cache in batch._caches.values():
        cache[:] = np.nan  # as a caption that left float16's range would
    batch.keep([])
    batch.join(states[:1])
    np.testing.assert_array_equal(first_step(batch, 1, 2).logprobs, clean.logprobs)


def test_memory_is_kept_for_the_last_beam_sizes(decoder):
    engine, _ = decoder
    five = engine.open(5)
    assert engine.open(5) is five
    engine.open(3)
    assert engine.open(5) is five
    engine.open(2)
    engine.open(1)
    assert engine.open(5) is not five


def test_a_batch_that_was_given_up_is_not_taken_again(decoder):
    engine, states = decoder
    batch = engine.open(5)
    batch.join(states[:1])
    assert engine.open(5) is not batch


def test_steps_of_one_shape_share_what_runs_them(decoder):
    engine, states = decoder
    batch = engine.open(5)
    batch.join(states[:3])
    first_step(batch, 3, 5)
    first_step(batch, 3, 5)
    assert len(engine._launches) == 1
    batch.keep([0, 1])
    first_step(batch, 2, 5)
    assert len(engine._launches) == 2


def test_batches_are_rounded_to_few_sizes():
    assert [rounded(count) for count in (1, 2, 3, 4, 5, 6, 7, 9, 13, 17, 25, 33, 49, 64)] == [
        1, 2, 3, 4, 6, 6, 8, 12, 16, 24, 32, 48, 64, 64,
    ]  # fmt: skip


def test_a_step_that_cannot_be_captured_runs_as_it_is(decoder, caplog):
    engine, states = decoder
    batch = engine.open(5)
    batch.join(states[:3])
    wanted = first_step(batch, 3, 5)
    step, asked = engine._step, []

    class Capturing:
        """A session on a GPU that another thread disturbs at the first capture."""

        def io_binding(self):
            return step.io_binding()

        def run_with_iobinding(self, binding, options):
            asked.append(options.get_run_config_entry("gpu_graph_id"))
            if asked == ["0"]:
                raise RuntimeError("operation failed due to a previous error during capture")
            step.run_with_iobinding(binding, options)

    engine._launches.clear()
    engine._step, engine._captures = Capturing(), True
    for _ in range(2):
        np.testing.assert_array_equal(first_step(batch, 3, 5).logprobs, wanted.logprobs)
    batch.keep([0])
    first_step(batch, 1, 5)
    assert asked == ["0", "-1", "-1", "1"]
    assert "without a CUDA graph" in caplog.text


def test_a_step_that_fails_uncaptured_fails(decoder, monkeypatch):
    engine, states = decoder
    batch = engine.open(5)
    batch.join(states[:1])
    monkeypatch.setattr(engine, "_captures", True)
    monkeypatch.setattr(engine, "_step", Mock(wraps=engine._step))
    engine._step.run_with_iobinding.side_effect = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        first_step(batch, 1, 5)
    assert engine._step.run_with_iobinding.call_count == 2
