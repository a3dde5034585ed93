"""Beam search through each engine: every hypothesis of every image under every recorded setting."""

import numpy as np
import pytest
import torch
from ofa_build.checkpoint import load_checkpoint
from ofa_build.evaluation.search import search_captions
from ofa_build.model import OFA
from ofa_serving.images import load_pixels
from ofa_serving.local import LocalCaptioner
from searching import assert_hypotheses


def test_through_torch(case):
    checkpoint = load_checkpoint(str(case.checkpoint))
    model = OFA(checkpoint.config).eval()
    model.load_state_dict(dict(checkpoint.state_dict))
    pixels, prompt = torch.from_numpy(case.tensors["pixels"]), torch.tensor(case.record["prompt_ids"])
    for settings, recorded in case.searches:
        assert_hypotheses(search_captions(model, pixels, prompt, settings, checkpoint.tokenizer.special), recorded)


@pytest.fixture(scope="module")
def hidden(case, local):
    size = load_checkpoint(str(case.checkpoint)).settings.patch_image_size
    return local(case).encode(np.stack([load_pixels(image, size) for image in case.images]))


def test_encoder_states_through_onnxruntime(case, hidden):
    np.testing.assert_allclose(hidden, case.tensors["encoder_hidden"], rtol=0, atol=1e-4)


def test_through_onnxruntime(case, local, hidden):
    for settings, recorded in case.searches:
        results = local(case).search(hidden, settings)
        assert_hypotheses([result.hypotheses for result in results], recorded)


def test_through_openvino(case, artifacts):
    with LocalCaptioner(artifacts(case) / "model_repository", case.model_name, 2, engine="openvino") as captioner:
        size = load_checkpoint(str(case.checkpoint)).settings.patch_image_size
        hidden = captioner.encode(np.stack([load_pixels(image, size) for image in case.images]))
        np.testing.assert_allclose(hidden, case.tensors["encoder_hidden"], rtol=0, atol=1e-4)
        for settings, recorded in case.searches:
            results = captioner.search(hidden, settings)
            assert_hypotheses([result.hypotheses for result in results], recorded)


def test_captions_through_onnxruntime(case, local):
    found = local(case).captions(case.images)
    assert [captions[0] for captions in found] == [captions[0] for captions in case.record["captions"]]


def test_texts_of_every_hypothesis(case, local):
    tokenizer = local(case).tokenizer
    for entry in case.record["beam"]:
        for hypothesis in (h for of_image in entry["hypotheses"] for h in of_image):
            assert tokenizer.decode(hypothesis["tokens"]) == hypothesis["text"]
