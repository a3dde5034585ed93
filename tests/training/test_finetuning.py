"""A run learns, continues exactly where it was ended, and leaves whole checkpoints or none."""

import csv
import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from captioned import EXAMPLES, NAMES, both, write_jsonl, write_tsv
from ofa_build.checkpoint import load_checkpoint
from ofa_build.cli import main
from ofa_build.data import DataError
from ofa_build.data.batches import Encoding
from ofa_build.data.records import BadRecords, Record
from ofa_build.data.sources import CaptionData, DataOptions
from ofa_build.model import OFA
from ofa_build.model.resnet import ResNet
from ofa_build.training import loop
from ofa_build.training.cider_d import CiderD
from ofa_build.training.finetuning import finetune
from ofa_build.training.freezing import set_training
from ofa_build.training.hooks import Hook, Stopwatch
from ofa_build.training.loop import Interrupted, Trainer
from ofa_build.training.recipe import Recipe, RecipeError
from ofa_build.training.self_critical import SelfCritical
from ofa_build.training.work_folder import RunError, WorkFolder
from small_model import EMOJI, assert_same_weights, weights_of, write_small
from torch import nn

pytest.importorskip("accelerate", reason="the train extra is not installed")

RECIPE = Recipe(max_updates=6, batch_size=4, learning_rate=1e-3, warm_up=0.0, save_every=2, log_every=1, workers=0,
                drop_worst_after=2, freeze=())  # fmt: skip
STEADY = replace(RECIPE, dropout=0.0, drop_path=0.0, drop_worst=0.0, freeze=("batch-norm",))
"""Without anything random, and without statistics of a batch."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("data"))


def train(checkpoint, data, work, recipe=RECIPE, **options):
    return finetune(checkpoint, str(data), work_dir=work, recipe=recipe, data=IMAGES, **options)


IMAGES = DataOptions(images=EXAMPLES / "images")


def losses(work: Path) -> list[float]:
    return [float(row["loss"]) for row in csv.DictReader((work / "log.csv").open())]


class At(Hook):
    """Does something after an update."""

    def __init__(self, update, action):
        self.update, self.action = update, action

    def on_update(self, update):
        if update == self.update:
            self.action()


@pytest.fixture(scope="module")
def whole(checkpoint, data, tmp_path_factory):
    """An uninterrupted run's folder."""
    work = tmp_path_factory.mktemp("whole")
    train(checkpoint, data, work)
    return work


def test_a_run_learns_captions_by_heart_and_keeps_the_best(tmp_path):
    new = ["three sunflowers above a boat", "a gift in front of an octopus", "a balloon above an owl", "a clock"]
    rows = [{"image": name, "caption": caption} for name, caption in zip(NAMES, new, strict=True)]
    recipe = replace(STEADY, max_updates=24, learning_rate=1e-3, end_learning_rate=5e-4,
                     label_smoothing=0.0, evaluate_every=8, save_every=24)  # fmt: skip
    result = finetune(EMOJI, rows, rows, tmp_path / "run", recipe=recipe, data=IMAGES)
    assert result.scores["exact"] == 100
    assert result.checkpoint == tmp_path / "run" / "best"
    scored = list(csv.DictReader((tmp_path / "run" / "evaluations.csv").open()))
    assert [int(row["update"]) for row in scored] == [8, 16, 24]
    best = max(scored, key=lambda row: float(row["CIDEr"]))
    assert result.scores["CIDEr"] == pytest.approx(float(best["CIDEr"]))
    assert result.checkpoint.resolve().name == f"update-{int(best['update']):08d}"
    assert (tmp_path / "run" / "tensorboard").is_dir()


def test_a_checkpoint_keeps_the_structure_it_came_with(checkpoint, whole):
    assert load_checkpoint(whole / "last").config == load_checkpoint(checkpoint).config
    assert load_checkpoint(whole / "last").settings == load_checkpoint(checkpoint).settings


@pytest.mark.parametrize("update", [1, 4])
def test_a_run_that_is_told_to_stop_continues_as_if_it_had_not(checkpoint, data, tmp_path, whole, update):
    hook = At(update, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match=f"stopped after update {update} of 6"):
        train(checkpoint, data, tmp_path, hooks=[hook])
    train(checkpoint, data, tmp_path)
    assert losses(tmp_path) == losses(whole)
    assert_same_weights(tmp_path / "last", whole / "last")


KILLED = """
import os, signal, sys
from test_finetuning import RECIPE, At, train
train(sys.argv[1], sys.argv[2], sys.argv[3], hooks=[At(5, lambda: os.kill(os.getpid(), signal.SIGKILL))])
"""


def test_a_run_that_is_killed_continues_from_what_it_saved_last(checkpoint, data, tmp_path, whole):
    command = [sys.executable, "-c", KILLED, str(checkpoint), str(data), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    assert subprocess.run(command, check=False, env=environment).returncode == -signal.SIGKILL
    assert len(losses(tmp_path)) == 4  # the line of the update that was at hand went down with it
    train(checkpoint, data, tmp_path)
    assert losses(tmp_path) == losses(whole)
    assert_same_weights(tmp_path / "last", whole / "last")


WHOLE_GROUP = """
import os, signal, sys
from dataclasses import replace
from test_finetuning import RECIPE, At, train
stop = At(3, lambda: os.killpg(0, signal.SIGTERM))
train(sys.argv[1], sys.argv[2], sys.argv[3], replace(RECIPE, workers=2), hooks=[stop])
"""


def in_a_group_of_its_own(*command, **variables):
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.run(
        [sys.executable, *command], check=False, env=environment, capture_output=True, text=True, timeout=300,
        start_new_session=True,
    )  # fmt: skip


def test_a_signal_to_the_whole_group_leaves_the_workers_to_the_update_at_hand(checkpoint, data, tmp_path, whole):
    """As torchrun, schedulers and ``timeout`` send it."""
    ended = in_a_group_of_its_own("-c", WHOLE_GROUP, str(checkpoint), str(data), str(tmp_path))
    assert "Interrupted: stopped after update 3 of 6" in ended.stderr
    train(checkpoint, data, tmp_path)
    assert_same_weights(tmp_path / "last", whole / "last")


EVERY_PROCESS = """
import multiprocessing, os, signal, subprocess, sys
from dataclasses import replace
from test_finetuning import RECIPE, At, train

def stop():
    workers = [str(worker.pid) for worker in multiprocessing.active_children()]
    assert len(workers) == 2
    subprocess.run(["kill", "-TERM", *workers, str(os.getpid())], check=True)  # from outside, as it comes
    subprocess.run(["kill", "-INT", *workers], check=True)

train(sys.argv[1], sys.argv[2], sys.argv[3], replace(RECIPE, workers=2), hooks=[At(1, stop)])
"""


def test_a_signal_to_every_process_leaves_the_workers_to_the_update_at_hand(checkpoint, data, tmp_path, whole):
    """As a container or a scheduler's job gets it."""
    ended = in_a_group_of_its_own("-c", EVERY_PROCESS, str(checkpoint), str(data), str(tmp_path))
    assert "Interrupted: stopped after update 1 of 6" in ended.stderr
    train(checkpoint, data, tmp_path)
    assert_same_weights(tmp_path / "last", whole / "last")


def test_a_signal_that_comes_twice_is_one(checkpoint, data, tmp_path, monkeypatch):
    """torchrun passes on the signal that a scheduler has sent to its processes too."""

    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    def fall(_number, _frame):
        raise RuntimeError("in the middle of an update")

    before = signal.signal(signal.SIGTERM, fall)
    try:
        with pytest.raises(Interrupted, match="stopped after update 1 of 6"):
            train(checkpoint, data, tmp_path, hooks=[At(1, twice)])
        monkeypatch.setattr(loop, "_ONE_SIGNAL", 0.0)
        with pytest.raises(RuntimeError, match="in the middle"):
            train(checkpoint, data, tmp_path, hooks=[At(2, twice)])
    finally:
        signal.signal(signal.SIGTERM, before)


ONE_OF_TWO = """
import os, signal, sys
from dataclasses import replace
from ofa_build.training.loop import Interrupted, Trainer
from test_finetuning import STEADY, train

def after_update(self, watch, original=Trainer._after_update):
    if self.update == 2 and self.accelerator.process_index == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    original(self, watch)

Trainer._after_update = after_update
try:
    train(sys.argv[1], sys.argv[2], sys.argv[3], replace(STEADY, batch_size=2, save_every=100))
except Interrupted as error:
    print(error)
"""


def test_processes_stop_together_whichever_was_told(checkpoint, data, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(ONE_OF_TWO)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = in_a_group_of_its_own(*torchrun, str(program), str(checkpoint), str(data), str(tmp_path / "run"),
                                  OMP_NUM_THREADS="1")  # fmt: skip
    assert ended.stdout.count("stopped after update 2 of 6") == 2, ended.stderr[-3000:]
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["update"] == 2


APART = """
import os, sys
from dataclasses import replace
from test_finetuning import STEADY, train

rank = os.environ["RANK"]
train(sys.argv[1], sys.argv[2], sys.argv[3] + rank, replace(STEADY, batch_size=2, workers=0))
"""


def test_processes_that_have_folders_of_their_own_do_not_continue(checkpoint, data, tmp_path):
    """As nodes have without a common file system: only the first one's has the run."""
    program = tmp_path / "program.py"
    program.write_text(APART)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for rank, update in ((0, 4), (1, 0)):
        (tmp_path / f"run{rank}").mkdir()
        if update:
            torch.save({"update": update}, tmp_path / f"run{rank}" / "state.pt")
            (tmp_path / f"run{rank}" / "recipe.json").write_text("{}")
    ended = in_a_group_of_its_own(*torchrun, str(program), str(checkpoint), str(data), str(tmp_path / "run"),
                                  OMP_NUM_THREADS="1")  # fmt: skip
    assert "at different updates (0 and 4): it must be one folder that all nodes share" in ended.stderr


def test_a_state_is_read_as_it_is_used_and_is_let_go(checkpoint, data, tmp_path):
    def maps():
        return str(tmp_path / "state.pt") in Path("/proc/self/maps").read_text()

    with pytest.raises(Interrupted):
        train(checkpoint, data, tmp_path, hooks=[At(1, lambda: os.kill(os.getpid(), signal.SIGTERM))])
    state = WorkFolder(tmp_path).load_state()
    assert maps()
    del state
    seen = []
    train(checkpoint, data, tmp_path, hooks=[At(2, lambda: seen.append(maps()))])
    assert seen == [False]


def test_a_full_disk_leaves_what_was_saved_before(checkpoint, data, tmp_path, whole):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))

    try:
        with pytest.raises(RunError) as full:
            train(checkpoint, data, tmp_path, hooks=[At(3, fill)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the state of update 4 could not be saved (File too large); what was saved before is intact" in str(
        full.value
    )
    assert not list(tmp_path.rglob("*.partial"))
    assert load_checkpoint(tmp_path / "last")
    train(checkpoint, data, tmp_path)
    assert_same_weights(tmp_path / "last", whole / "last")


def test_a_run_does_not_take_the_checkpoints_of_one_that_saved_no_state(checkpoint, data, tmp_path, whole):
    early = replace(RECIPE, evaluate_every=2, save_every=100, learning_rate=1e-2)

    def fall():
        raise RuntimeError("fallen")

    with pytest.raises(RuntimeError, match="fallen"):
        train(checkpoint, data, tmp_path, early, evaluation=str(data), hooks=[At(3, fall)])
    assert (tmp_path / "best").exists()
    (tmp_path / "state.pt").unlink()
    kept, at_two = replace(RECIPE, keep=9), Path("checkpoints", "update-00000002")
    train(checkpoint, data, tmp_path, kept)
    train(checkpoint, data, tmp_path / "clean", kept)
    assert_same_weights(tmp_path / at_two, tmp_path / "clean" / at_two)
    assert_same_weights(tmp_path / "last", whole / "last")


def test_an_evaluation_that_fails_costs_nothing_that_was_learned(checkpoint, data, tmp_path, whole):
    broken = [{"image": str(tmp_path / "none.png"), "caption": "nothing"}]
    with pytest.raises(DataError, match="no image of the evaluation data can be read"):
        recipe = replace(RECIPE, save_every=100, evaluate_every=100)
        train(checkpoint, data, tmp_path / "run", recipe, evaluation=broken)
    assert_same_weights(tmp_path / "run" / "last", whole / "last")


def test_a_run_that_is_told_to_stop_where_it_evaluates_does_so_when_it_continues(checkpoint, data, tmp_path):
    recipe = replace(RECIPE, evaluate_every=2, save_every=100)
    train(checkpoint, data, tmp_path / "whole", recipe, evaluation=str(data))
    stop = At(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        train(checkpoint, data, tmp_path / "run", recipe, evaluation=str(data), hooks=[stop])
    assert not (tmp_path / "run" / "evaluations.csv").exists()
    train(checkpoint, data, tmp_path / "run", recipe, evaluation=str(data))
    assert (tmp_path / "run" / "evaluations.csv").read_text() == (tmp_path / "whole" / "evaluations.csv").read_text()
    assert_same_weights(tmp_path / "run" / "best", tmp_path / "whole" / "best")


def test_a_run_that_ended_behind_an_evaluation_tells_of_it_once(checkpoint, data, tmp_path):
    recipe = replace(RECIPE, evaluate_every=2, save_every=100)
    train(checkpoint, data, tmp_path / "whole", recipe, evaluation=str(data))

    def fall():
        raise RuntimeError("fallen")

    with pytest.raises(RuntimeError, match="fallen"):
        train(checkpoint, data, tmp_path / "run", recipe, evaluation=str(data), hooks=[At(3, fall)])
    train(checkpoint, data, tmp_path / "run", recipe, evaluation=str(data))
    assert (tmp_path / "run" / "evaluations.csv").read_text() == (tmp_path / "whole" / "evaluations.csv").read_text()


@pytest.mark.parametrize(("evaluation", "options", "message"), [
    (iter([{"image": NAMES[0], "caption": "a boat"}]), IMAGES, "the evaluation data is a stream"),
    (None, replace(IMAGES, evaluation_images=0), "evaluation images is 1 or more"),
])  # fmt: skip
def test_evaluation_data_that_cannot_be_used_is_refused_before_anything_is_learned(
    checkpoint, data, tmp_path, evaluation, options, message
):
    source = str(data) if evaluation is None else evaluation
    with pytest.raises(DataError, match=message):
        finetune(checkpoint, str(data), source, tmp_path / "run", recipe=RECIPE, data=options)
    assert not (tmp_path / "run" / "state.pt").exists()


def test_a_log_that_a_full_disk_cut_is_continued(checkpoint, data, tmp_path, whole):
    with pytest.raises(Interrupted):
        train(checkpoint, data, tmp_path, hooks=[At(3, lambda: os.kill(os.getpid(), signal.SIGTERM))])
    log = tmp_path / "log.csv"
    log.write_text(log.read_text().rstrip("\n").rpartition(",")[0])
    (tmp_path / "evaluations.csv").write_text("")
    train(checkpoint, data, tmp_path)
    assert losses(tmp_path) == [loss for update, loss in enumerate(losses(whole), 1) if update != 3]
    assert_same_weights(tmp_path / "last", whole / "last")


def test_a_run_is_not_continued_on_other_data(checkpoint, data, tmp_path):
    rows = [{"image": name, "caption": "a thing"} for name in NAMES]
    with pytest.raises(Interrupted):
        finetune(checkpoint, rows, work_dir=tmp_path, recipe=RECIPE, data=IMAGES,
                 hooks=[At(1, lambda: os.kill(os.getpid(), signal.SIGTERM))])  # fmt: skip
    with pytest.raises(RunError, match="holds a run with records 4, not 3"):
        finetune(checkpoint, rows[:3], work_dir=tmp_path, recipe=RECIPE, data=IMAGES)


def test_a_folder_with_another_run_is_not_continued(checkpoint, data, whole):
    with pytest.raises(RunError, match=r"holds a run with learning_rate 0.001, not 0.5: name another folder"):
        train(checkpoint, data, whole, replace(RECIPE, learning_rate=0.5))


def test_a_loss_that_is_no_number_ends_the_run(checkpoint, data, tmp_path):
    with pytest.raises(RunError, match=r"no number at update .*: lower the learning rate"):
        train(checkpoint, data, tmp_path, replace(RECIPE, learning_rate=1e30, clip_norm=0.0))


@pytest.fixture(scope="module")
def steady(checkpoint, data, tmp_path_factory):
    """The losses of a run without anything random."""
    work = tmp_path_factory.mktemp("steady")
    train(checkpoint, data, work, STEADY)
    return losses(work)


def test_accumulated_batches_are_one_large_batch(checkpoint, data, tmp_path, steady):
    train(checkpoint, data, tmp_path, replace(STEADY, batch_size=1, accumulation=4))
    assert losses(tmp_path) == pytest.approx(steady, abs=1e-4)


def test_two_processes_give_the_single_ones_loss_curve(checkpoint, data, tmp_path, steady):
    flags = ["--batch-size=2", "--max-updates=6", "--learning-rate=1e-3", "--warm-up=0", "--log-every=1", "--workers=0"]
    flags += ["--drop-worst=0", "--dropout=0", "--drop-path=0", "--freeze", "batch-norm"]
    command = ["finetune", str(checkpoint), "--train", str(data), "--images", str(IMAGES.images)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    run = [*torchrun, "-m", "ofa_build.cli", *command, *flags, "--work", str(tmp_path)]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path) == pytest.approx(steady, abs=1e-3)


def test_recomputed_gradients_are_the_kept_ones(checkpoint, data, tmp_path, steady):
    train(checkpoint, data, tmp_path, replace(STEADY, gradient_checkpointing=True))
    assert losses(tmp_path) == pytest.approx(steady, abs=1e-6)


def test_bfloat16_learns_nearly_the_same(checkpoint, data, tmp_path, steady):
    train(checkpoint, data, tmp_path, replace(STEADY, precision="bf16"))
    assert losses(tmp_path) == pytest.approx(steady, rel=0.02)
    assert losses(tmp_path) != steady


def test_half_precision_needs_a_gpu(checkpoint, data, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        train(checkpoint, data, tmp_path, replace(RECIPE, precision="fp16"))


def test_the_first_block_of_a_stage_is_never_dropped():
    """As in OFA's ResNet, whose first blocks have no drop-path at all."""
    backbone = ResNet((3, 4, 6), drop_path=0.3)
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3):
        rates = [block.drop_path.rate for block in stage]
        assert rates == pytest.approx([0.3 * number / (len(stage) - 1) for number in range(len(stage))])


FROZEN = {
    "embeddings": lambda name: "embed_tokens" in name or "output_projection" in name,
    "resnet": lambda name: "embed_images" in name,
    "stem": lambda name: any(f"embed_images.{part}." in name for part in ("conv1", "bn1", "layer1")),
    "batch-norm": lambda name: "embed_images" in name and (".bn" in name or "downsample.1" in name),
}


@pytest.mark.parametrize("part", FROZEN)
def test_what_is_frozen_stays_as_it_was_and_the_rest_learns(checkpoint, data, tmp_path, part):
    train(checkpoint, data, tmp_path, replace(RECIPE, freeze=(part,), max_updates=2, learning_rate=1e-2))
    before, after = weights_of(checkpoint), weights_of(tmp_path / "last")
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    unused = ("embed_image_positions", "image_pos_ln", "image_rel_pos_table_list", "code_layernorm_embedding")
    assert not [name for name in changed if FROZEN[part](name)]
    assert not [name for name in changed if name.startswith("decoder.") and any(word in name for word in unused)]
    assert any("fc1" in name for name in changed)
    assert any("embed_images" in name for name in changed) == (part != "resnet")


def test_what_is_frozen_keeps_its_statistics_over_several_gpus(checkpoint):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(OFA(load_checkpoint(checkpoint).config))
    images = model.encoder.embed_images
    for part, kept in (("resnet", images), ("batch-norm", images), ("stem", images.layer1)):
        set_training(model, (part,))
        norms = [module for module in kept.modules() if isinstance(module, nn.SyncBatchNorm)]
        assert norms
        assert not any(norm.training for norm in norms)
    assert images.layer2[0].bn1.training


def test_a_batch_of_nothing_does_not_touch_the_statistics(checkpoint, tmp_path):
    """One process leaves out a batch of which no image could be read; the rest of the update is learned from."""
    bad = [{"image": str(tmp_path / f"{number}.png"), "caption": "none"} for number in range(3)]
    rows = [{"image": NAMES[0], "caption": "a boat"}, *bad]
    recipe = replace(STEADY, freeze=(), batch_size=1, accumulation=4, max_updates=1)
    finetune(checkpoint, rows, work_dir=tmp_path / "some", recipe=recipe, data=IMAGES)
    finetune(checkpoint, rows[:1], work_dir=tmp_path / "one", recipe=recipe, data=IMAGES)
    assert_same_weights(tmp_path / "some" / "last", tmp_path / "one" / "last")


def test_a_stream_is_trained_on_and_continued(checkpoint, tmp_path):
    source = str(write_tsv(tmp_path))
    stream = replace(IMAGES, streaming=True)
    finetune(checkpoint, source, work_dir=tmp_path / "whole", recipe=RECIPE, data=stream)
    with pytest.raises(Interrupted):
        stop = At(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        finetune(checkpoint, source, work_dir=tmp_path / "part", recipe=RECIPE, data=stream, hooks=[stop])
    finetune(checkpoint, source, work_dir=tmp_path / "part", recipe=RECIPE, data=stream)
    assert_same_weights(tmp_path / "part" / "last", tmp_path / "whole" / "last")
    recorded = tmp_path / "part" / "recipe.json"
    recorded.write_text(recorded.read_text().replace('"stream_order": 2,', ""))  # as an earlier version left it
    with pytest.raises(RunError, match="holds a run with stream_order 1, not 2"):
        finetune(checkpoint, source, work_dir=tmp_path / "part", recipe=RECIPE, data=stream)
    with pytest.raises(RecipeError, match="a stream has no epochs"):
        finetune(checkpoint, source, work_dir=tmp_path / "x", recipe=replace(RECIPE, max_updates=None), data=stream)


def test_the_command_is_the_call(checkpoint, data, tmp_path, whole):
    flags = ["--max-updates=6", "--batch-size=4", "--learning-rate=1e-3", "--warm-up=0", "--workers=0", "--freeze"]
    run = ["finetune", str(checkpoint), "--train", str(data), "--images", str(IMAGES.images), "--work", str(tmp_path)]
    assert main([*run, *flags, "--drop-worst-after=2", "--save-every=2", "--log-every=1"]) == 0
    assert losses(tmp_path) == losses(whole)
    assert_same_weights(tmp_path / "last", whole / "last")


def test_too_many_bad_images_stop_the_run(checkpoint, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(write_jsonl(tmp_path).read_text() + json.dumps({"image": str(path), "caption": "no image"}))
    strict = replace(IMAGES, max_bad=0)
    with pytest.raises(DataError, match=r"more than 0 records are bad: .*bad.jsonl \(UNSUPPORTED_FORMAT"):
        finetune(checkpoint, str(path), work_dir=tmp_path / "run", recipe=RECIPE, data=strict)


CORPUS = [both(name) for name in NAMES]


def test_the_reward_is_cider_d():
    pytest.importorskip("pycocoevalcap", reason="the train extra is not installed")
    from ofa_build.evaluation.metrics import tokenize_simply
    from pycocoevalcap.cider.cider import Cider

    captions = [CORPUS[1][0], "an owl", CORPUS[2][0], ""]
    reward = CiderD(CORPUS)
    ours = [reward.score(caption, references) for caption, references in zip(captions, CORPUS, strict=True)]
    ended = {n: [f"{text} <eos>" for text in tokenize_simply({"": texts})[""]] for n, texts in enumerate(CORPUS)}
    given = {n: [f"{text} <eos>".strip()] for n, text in enumerate(captions)}
    _, theirs = Cider().compute_score(ended, given)
    assert ours == pytest.approx(theirs.tolist())


def test_the_reward_counts_chinese_characters():
    corpus = [["一条红色的长裙。"], ["两只猫和一个球"], ["蓝色手机壳"]]
    reward = CiderD(corpus)
    assert 0 < reward.score("一条红色的短裙", corpus[0]) < reward.score("一条红色的长裙", corpus[0])


def test_the_self_critical_stage_warns_of_single_references(checkpoint, caplog):
    loaded = load_checkpoint(checkpoint)
    for captions in (("a cat", "the cat"), ("a cat",)):
        assert "a single reference" not in caplog.text
        SelfCritical(OFA(loaded.config), loaded, CaptionData([Record("one", bytes, captions)], BadRecords()), STEADY)
    assert "every image has a single reference" in caplog.text


def test_a_batch_of_nothing_takes_its_part_in_the_self_critical_stage(tmp_path):
    """Batch norms that are shared between processes wait for the training forward of every one of them."""
    checkpoint = load_checkpoint(write_small(tmp_path, beam_size=2))
    model = OFA(checkpoint.config)
    model.load_state_dict(dict(checkpoint.state_dict))
    data = CaptionData([Record("one", bytes, ("a cat",))], BadRecords())
    objective = SelfCritical(model, checkpoint, data, STEADY).train()
    modes = []
    model.encoder.register_forward_hook(lambda module, *_: modes.append(module.training))
    empty = Encoding(checkpoint.tokenizer, checkpoint.settings.patch_image_size, 20, 64).collate([])
    loss = objective(empty, 0)["loss"].value
    loss.backward()
    assert modes == [False, True]
    assert loss.item() == 0
    assert not any(weight.grad.any() for weight in model.parameters() if weight.grad is not None)


def test_the_log_tells_the_mean_of_the_gradients_norms_that_are_numbers():
    told = []
    trainer = object.__new__(Trainer)
    trainer._sums, trainer.update, trainer.updates, trainer.updates_per_epoch = defaultdict(float), 2, 4, None
    trainer.accelerator = SimpleNamespace(reduce=lambda values: values)
    trainer._optimizer = SimpleNamespace(param_groups=[{"lr": 1.0}])
    trainer._tell = lambda _event, progress: told.append(dict(progress.means))
    for norms in ([math.inf], [math.inf, 2.0, 4.0]):
        for norm in norms:
            trainer._remember({"loss": torch.tensor(1.0)}, torch.tensor(norm))
        trainer._report(Stopwatch())
    assert [list(means) for means in told] == [["loss", "gradient_norm"]] * 2
    assert math.isnan(told[0]["gradient_norm"])
    assert told[1] == {"loss": 1.0, "gradient_norm": 3.0}


def test_the_self_critical_stage_raises_the_reward(tmp_path, data):
    start = write_small(tmp_path / "start", beam_size=4)
    taught = finetune(start, str(data), work_dir=tmp_path / "taught", data=IMAGES,
                      recipe=replace(STEADY, max_updates=25, learning_rate=4e-3))  # fmt: skip
    recipe = replace(STEADY, max_updates=12, learning_rate=5e-4, label_smoothing=0.0)
    work = tmp_path / "rewarded"
    finetune(taught.checkpoint, str(data), work_dir=work, stage="self-critical", recipe=recipe, data=IMAGES)
    rewards = [float(row["reward"]) for row in csv.DictReader((work / "log.csv").open())]
    assert sum(rewards[-4:]) > sum(rewards[:4]) > 0
