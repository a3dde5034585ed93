"""The PyTorch model against the reference's tensors."""

import numpy as np
import pytest
import torch
from ofa_build.checkpoint import load_checkpoint
from ofa_build.model import OFA
from ofa_serving.images import load_pixels


@pytest.fixture(scope="module")
def checkpoint(case):
    return load_checkpoint(str(case.checkpoint))


@pytest.fixture(scope="module")
def model(checkpoint):
    model = OFA(checkpoint.config).eval()
    model.load_state_dict(dict(checkpoint.state_dict))
    return model


@pytest.fixture(scope="module")
def encoded(case, model):
    with torch.inference_mode():
        return model.encoder(torch.from_numpy(case.tensors["pixels"]), torch.tensor(case.record["prompt_ids"]))


def test_the_prompt_has_the_reference_s_ids(case, checkpoint):
    settings = checkpoint.settings
    prompt = checkpoint.tokenizer.encode_prompt(settings.prompt, settings.max_src_length)
    assert prompt == case.record["prompt_ids"]


def test_pixels_are_the_reference_s(case, checkpoint):
    settings = checkpoint.settings
    pixels = np.stack([load_pixels(image, settings.patch_image_size) for image in case.images])
    normalised = (pixels / np.float32(255) - np.float32(settings.mean)) / np.float32(settings.std)
    np.testing.assert_allclose(normalised.transpose(0, 3, 1, 2), case.tensors["pixels"], rtol=0, atol=1e-6)


def test_encoder_states_and_positions_are_the_reference_s(case, encoded):
    hidden, positions = encoded
    np.testing.assert_allclose(hidden, case.tensors["encoder_hidden"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(positions, case.tensors["position_embedding"][0], rtol=0, atol=1e-4)


def test_forced_log_probabilities_are_the_reference_s(case, model, encoded):
    tensors = case.tensors
    with torch.inference_mode():
        logits = model.decoder(torch.from_numpy(tensors["forced_tokens"]).long(), *encoded)
    logprobs = logits.log_softmax(-1).gather(-1, torch.from_numpy(tensors["forced_topk_ids"]).long())
    np.testing.assert_allclose(logits[..., :64], tensors["forced_logits_first64"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(logprobs, tensors["forced_logprob_topk"], rtol=0, atol=1e-4)
