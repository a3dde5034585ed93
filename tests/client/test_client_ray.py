"""What each of Ray's actors does with a batch; ``make test-ray`` has Ray itself."""

from __future__ import annotations

import numpy as np
import pytest
from ofa_client.ray import CaptionBatch


@pytest.fixture
def caption_batch(scripted):
    def run(*images):
        column = np.empty(len(images), object)
        column[:] = images
        return CaptionBatch(scripted.grpc, "image", 4, None, {})({"image": column})

    return run


def test_images_are_as_hugging_face_has_them(caption_batch, script, tmp_path):
    (tmp_path / "dog.jpg").write_bytes(script(captions=["a dog"]))
    cat = {"bytes": script(captions=["a cat"]), "path": "cat.jpg"}
    made = caption_batch(cat, {"bytes": None, "path": str(tmp_path / "dog.jpg")}, script(captions=["an owl"]))
    assert list(made["caption"]) == ["a cat", "a dog", "an owl"]
    assert list(made["caption_error"]) == [None] * 3


def test_each_error_begins_with_its_code(caption_batch, script):
    images = [script(error="TRUNCATED_IMAGE: it ends early"), "missing.jpg", np.zeros((4, 4)), {"bytes": None}]
    made = caption_batch(*images)
    assert list(made["caption"]) == [None] * 4
    refused, missing, array, empty = made["caption_error"]
    assert refused == "TRUNCATED_IMAGE: it ends early. Fetch or export the file again."
    assert missing == "UNREADABLE: No such file or directory"
    assert array.startswith("UNREADABLE: an image array must be RGB uint8")
    assert empty.startswith("UNREADABLE: an image is a path")
