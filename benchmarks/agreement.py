"""What a precision costs in captions: the bundled checkpoint's, built in each, on scenes that training never saw.

python -m benchmarks.agreement --contenders onnxruntime:fp32 openvino:bf16

``emulated:bf16`` is for a CPU without bfloat16.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path

from ofa_build.evaluation.metrics import cider
from ofa_build.repository import Serving
from ofa_build.scenes.art import Art
from ofa_build.scenes.sampler import SceneSampler
from ofa_build.scenes.sources import TRAINING_STYLES
from ofa_build.scenes.splits import Split
from ofa_build.training.exact_match import SEED, scene_file
from ofa_serving.local import LocalCaptioner

from .builds import built
from .emulated import emulated_bf16
from .machine import describe

CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "emoji"
EMULATED = "emulated:bf16"
CHUNK = 25
PICTURES = 200


def main() -> None:
    """Captions the scenes with every contender and writes how they agree with the first."""
    flags = _flags()
    sampler, art = SceneSampler(Split.UNSEEN, SEED, TRAINING_STYLES), Art.load(TRAINING_STYLES)
    files = [scene_file(sampler, number, art) for number in range(flags.scenes)]
    references = {str(number): [sampler(number).caption] for number in range(flags.scenes)}
    captions = {contender: _captions(contender, files, flags.work, flags.device) for contender in flags.contenders}
    first = captions[flags.contenders[0]]
    results = {
        "command": " ".join(["python -m benchmarks.agreement", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": describe(),
        "scenes": flags.scenes,
        "contenders": {
            name: {
                "agreement": _share(given, first),
                "exact": _share(given, [caption for (caption,) in references.values()]),
                "cider": round(cider(references, dict(zip(references, given, strict=True))), 2),
            }
            for name, given in captions.items()
        },
    }
    text = json.dumps(results, indent=1) + "\n"
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    flags.output.write_text(text)
    sys.stdout.write(text)


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contenders", nargs="+", default=["onnxruntime:fp32", "openvino:bf16"])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="fp16 runs as on a GPU, if without one")
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--work", type=Path, default=Path(".cache/agreement"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/agreement.json"))
    return parser.parse_args()


def _captions(contender: str, files: list[bytes], work: Path, device: str) -> list[str]:
    if contender == EMULATED:
        repository = built("agreement_bf16", work, CHECKPOINT, Serving.on("cpu", "onnxruntime", "fp32"), [])
        return _all_of(emulated_bf16(repository, work / "emulated"), "agreement_bf16", files)
    engine, precision = contender.split(":")
    device = "host" if precision == "fp16" and device == "cpu" else device
    name = f"agreement_{device}_{engine}_{precision}"
    pictures = _pictures() if precision == "int8" else []
    repository = built(name, work, CHECKPOINT, Serving.on(device, engine, precision), pictures)
    return _all_of(repository, name, files)


def _all_of(repository: Path, name: str, files: list[bytes]) -> list[str]:
    with LocalCaptioner(repository, name) as captioner:
        parts = (captioner.captions(files[first : first + CHUNK]) for first in range(0, len(files), CHUNK))
        return [best for part in parts for best, *_ in part]


def _pictures() -> list[bytes]:
    """Scenes of those that training shows, which quantizing takes its ranges from."""
    sampler, art = SceneSampler(Split.TRAIN, SEED, TRAINING_STYLES), Art.load(TRAINING_STYLES)
    return [scene_file(sampler, number, art) for number in range(PICTURES)]


def _share(given: list[str], wanted: list[str]) -> float:
    return round(sum(one == other for one, other in zip(given, wanted, strict=True)) / len(wanted), 4)


if __name__ == "__main__":
    main()
