"""A run that is told to stop, killed or out of room goes on as if nothing had been."""

import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from captioned import NAMES
from ofa_build.checkpoint import load_checkpoint
from ofa_build.data import DataError
from ofa_build.training import loop
from ofa_build.training.finetuning import finetune
from ofa_build.training.loop import Interrupted
from ofa_build.training.work_folder import RunError, WorkFolder
from small_model import assert_same_weights
from small_run import IMAGES, RECIPE, At, losses, train


@pytest.mark.parametrize("update", [1, 4])
def test_a_run_that_is_told_to_stop_continues_as_if_it_had_not(checkpoint, data, tmp_path, whole, update):
    hook = At(update, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match=f"stopped after update {update} of 6") as stopped:
        train(checkpoint, data, tmp_path, hooks=[hook])
    assert stopped.value.signal_number == signal.SIGTERM
    train(checkpoint, data, tmp_path)
    assert losses(tmp_path) == losses(whole)
    assert_same_weights(tmp_path / "last", whole / "last")


KILLED = """
import os, signal, sys
from small_run import RECIPE, At, train
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
from small_run import RECIPE, At, train
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
from small_run import RECIPE, At, train

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
from small_run import STEADY, train

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
from small_run import STEADY, train

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
