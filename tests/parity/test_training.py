"""What training reads from ModelScope's own objects, and that what it leaves captions there as it does here."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from captioned import EXAMPLES, NAMES, both, write_jsonl
from ofa_build.artifact import build_artifact
from ofa_build.checkpoint import load_checkpoint
from ofa_build.data.sources import DataOptions
from ofa_build.repository import Serving
from ofa_build.training.distillation import distil
from ofa_build.training.finetuning import finetune
from ofa_build.training.recipe import Recipe
from ofa_serving.local import LocalCaptioner
from small_model import EMOJI, write_small

HERE = Path(__file__).parent
IMAGES = DataOptions(images=EXAMPLES / "images")
RECIPE = Recipe(max_updates=4, batch_size=4, learning_rate=1e-3, workers=0)


def ask_modelscope(script, *arguments, path=()):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [os.environ["MODELSCOPE_PYTHON"], HERE / script, *arguments]
    peer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert peer.returncode == 0, peer.stderr[-2000:]
    return [json.loads(line) for line in peer.stdout.splitlines() if line.startswith("{")]


def test_rows_of_datasets_and_msdataset_objects_are_records(tmp_path):
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "said"])
        writer.writerows([EXAMPLES / "images" / name, both(name)[0]] for name in NAMES)
    packages = [folder for folder in sys.path if Path(folder).name in ("build", "serving")]
    packages = packages or [HERE.parents[1] / name for name in ("build", "serving")]
    (found,) = ask_modelscope("modelscope_rows.py", tmp_path, write_small(tmp_path / "small"), path=packages)
    expected = [[both(name)[0], True] for name in NAMES]
    kinds = ("datasets", "MsDataset", "MsDataset of paths", "streaming")
    assert found == {**dict.fromkeys(kinds, expected), "1 shards": True, "2 shards": True}


@pytest.mark.parametrize("how", ["fine-tuned", "distilled"])
def test_a_trained_checkpoint_captions_in_modelscope_as_it_does_here(how, tmp_path):
    data, work = str(write_jsonl(tmp_path)), tmp_path / "work"
    if how == "fine-tuned":
        result = finetune(EMOJI, data, work_dir=work, recipe=RECIPE, data=IMAGES)
    else:
        teacher = write_small(tmp_path / "teacher", seed=1)
        recipe = replace(RECIPE, freeze=(), drop_worst=0.0)
        result = distil(teacher, write_small(tmp_path / "student"), data, work_dir=work, recipe=recipe, data=IMAGES)
    images = [EXAMPLES / "images" / name for name in NAMES]
    theirs = ask_modelscope("modelscope_peer.py", result.checkpoint.resolve(), *images)
    build_artifact(load_checkpoint(result.checkpoint), how, "trained", tmp_path, Serving())
    with LocalCaptioner(tmp_path / "trained" / "model_repository", "trained") as captioner:
        ours = captioner.captions([image.read_bytes() for image in images])
    assert ours == [answer["captions"] for answer in theirs]
