"""Runs in ModelScope's environment: captions images with its own pipeline and prints every hypothesis as JSON.

    modelscope_peer.py CHECKPOINT IMAGE...

A line an image: {"captions": [...], "hypotheses": [{"tokens": [...], "score": ...}, ...]}.
"""

import json
import sys
import types
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock

import torch

# ModelScope imports every OFA task at once. What only its speech, detection and drawing tasks use is not installed
# here, and is replaced by nothing; captioning uses none of it.
ABSENT = {
    "clip", "diffusers", "editdistance", "fairseq", "ftfy", "librosa", "open_clip", "pytorch_lightning", "rapidfuzz",
    "soundfile", "taming", "torchaudio",
}  # fmt: skip
DETECTION_OPERATORS = ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d")


class Absent(MetaPathFinder, Loader):
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in ABSENT else None

    def create_module(self, spec):
        module = MagicMock(name=spec.name)
        if spec.name == "fairseq.modules":
            module = types.ModuleType(spec.name)
            module.LayerNorm = torch.nn.LayerNorm
        module.__path__, module.__name__, module.__spec__ = [], spec.name, spec
        return module

    def exec_module(self, module):
        pass


def prepare():
    """Lets ModelScope import also beside a CPU torch, where torchvision's own operators, made for CUDA, do not load."""
    sys.meta_path.append(Absent())
    try:
        torch.ops.load_library(Path(find_spec("torchvision").origin).with_name("_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        names = [f"_{name}_backward" for name in DETECTION_OPERATORS]
        for name in (*DETECTION_OPERATORS, *names, "nms", "qnms", "qroi_align"):
            library.define(f"{name}(Tensor x) -> Tensor")
        return library


def main(checkpoint, *images):
    library = prepare()
    from modelscope.pipelines import pipeline
    from modelscope.utils.constant import Tasks

    captioner = pipeline(Tasks.image_captioning, model=checkpoint)
    model = captioner.model
    model.model.float()
    generate = type(model.generator).generate
    found = []

    def record(self, models, sample, **options):
        result = generate(self, models, sample, **options)
        found.append(result)
        return result

    type(model.generator).generate = record
    for image in images:
        captions = captioner(image)["caption"]
        (hypotheses,) = found.pop()
        answer = [{"tokens": h["tokens"].tolist(), "score": float(h["score"])} for h in hypotheses]
        print(json.dumps({"captions": captions, "hypotheses": answer}), flush=True)
    del library


if __name__ == "__main__":
    main(*sys.argv[1:])
