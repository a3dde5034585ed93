"""What the benchmarks count and write, without measuring."""

import contextlib
import json
import math
import subprocess
import sys
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from ofa_build.checkpoint import load_checkpoint
from ofa_build.plans import PlanError
from ofa_client import errors
from ofa_serving.contract import STAGES

from benchmarks import ceiling, checkpoints, contenders, load, machine, observability, report, run
from benchmarks.arithmetic import gflop_a_caption
from benchmarks.checkpoints import config_of
from benchmarks.contenders import Contender
from benchmarks.plots import floor_ms
from benchmarks.ways import __main__ as ways
from benchmarks.ways import report as ways_report
from loadtest import servers
from loadtest.loops import Outcome

FASTER, SLOWER = "onnxruntime fp16", "ModelScope"


def contender(latency, rate, precision):
    figures = {"latency_ms": latency, "latency_ms_least": latency, "latency_ms_most": latency}
    return {**figures, "captions_per_second": rate, "requests_in_flight": 8, "precision": precision, "versions": {}}


@pytest.fixture
def results():
    answers = {"captions_per_second": 10.0, "p50_ms": 90.0, "p99_ms": 140.0, "requests": 100, "refused": 0}
    return {
        "command": "the command",
        "date": "2026-11-22",
        "machine": {"processor": "a processor", "cores": 2, "instructions": ["avx2"], "gpu": "a GPU"},
        "size": "tiny",
        "image_size": 480,
        "device": "gpu",
        "gflop_a_caption": 40.0,
        "ceiling_gflops": {"fp32": 1000.0, "fp16": 4000.0},
        "contenders": {FASTER: contender(20.0, 100.0, "fp16"), SLOWER: contender(200.0, 5.0, "fp32")},
        "servers": {
            FASTER: {
                "start_seconds": 2.0,
                "resident_mib": 900,
                "latency_ms": 16.0,
                "stages_ms": dict.fromkeys(STAGES, 3.0),
            },
        },
        "load": {FASTER: {"closed": {"1": answers, "4": answers}, "poisson": {"rate": 7.0, **answers}}},
        "engines": {FASTER: {"encoder": {"1": 8.0}, "search": {"1": {"1": 2.0}, "5": {"1": 2.0}}, "size_mib": 66.0}},
        "same_caption_as_first": {FASTER: True, SLOWER: True},
    }


def test_the_arithmetic_of_a_caption_is_counted():
    config = config_of("tiny")
    usual = gflop_a_caption(config, 480, 5)
    assert usual == pytest.approx(43, abs=0.5)  # as counted by hand
    assert gflop_a_caption(config, 480, 10) > usual > gflop_a_caption(config, 480, 1)
    assert gflop_a_caption(config, 224, 5) < usual / 3


def test_the_floor_is_of_the_precision(results):
    assert floor_ms(results, "fp32") == pytest.approx(40)
    assert floor_ms(results, "fp16") == pytest.approx(10)
    results["ceiling_gflops"] = {"fp32": 1000.0, "bf16": 2000.0}
    assert floor_ms(results, "int8") == pytest.approx(20)
    results["ceiling_gflops"] = {"fp32": 1000.0}
    assert floor_ms(results, "int8") == floor_ms(results, "bf16") == pytest.approx(40)


@pytest.mark.parametrize(("flags", "measured"), [("avx2", ["fp32"]), ("avx2 avx512_bf16", ["fp32", "bf16"])])
def test_a_ceiling_is_measured_in_what_the_cpu_has(flags, measured, monkeypatch):
    monkeypatch.setattr(machine, "cpu_instructions", lambda: frozenset(flags.split()))
    monkeypatch.setattr(ceiling, "_gflops", lambda _dtype, _device: 1.0)
    assert list(ceiling.ceilings("cpu")) == measured


def test_a_report_says_what_was_measured_where(results, tmp_path):
    report.write_report(results, tmp_path / "gpu-tiny-480")
    text = (tmp_path / "gpu-tiny-480.md").read_text()
    assert text.startswith("# OFA-tiny, 480 x 480, beam 5, on a GPU\n\na GPU; 2 cores of a processor")
    assert f"| {FASTER} | 20 (20-20) | 100.00 | 10.0x | 20.0x | 2.0 | yes |" in text
    assert f"| {FASTER} | captions/s, beam 5 | 100 |" in text
    first, *others = [table.split("\n\n")[1] for table in text.split("\n## ")[1:]]
    assert first.startswith("In turns: ")
    assert [other[:11] for other in others] == ["In one pass"] * 3
    for plot in ("stages", "floor", "load"):
        assert f"![{plot}](gpu-tiny-480-{plot}.png)" in text
        assert (tmp_path / f"gpu-tiny-480-{plot}.png").stat().st_size > 0


def test_what_was_not_measured_is_a_dash_and_stays_json(results, tmp_path):
    nothing = {"captions_per_second": None, "latency_ms": None, "latency_ms_least": None, "latency_ms_most": None}
    results["contenders"][FASTER].update(nothing)
    for answers in (results["load"][FASTER]["closed"]["4"], results["load"][FASTER]["poisson"]):
        answers.update({"captions_per_second": 0.0, "p50_ms": None, "p99_ms": None, "requests": 0})
    report.write_report({**results, "servers": {}}, tmp_path / "tiny")
    text = (tmp_path / "tiny.md").read_text()
    assert f"| {FASTER} | - | - | - | - | - | yes |" in text
    assert f"| {FASTER} | 4 in flight | 0.0 | - | - | 0 | 0 |" in text
    json.loads((tmp_path / "tiny.json").read_text(), parse_constant=pytest.fail)


def test_figures_that_are_no_json_are_not_written(results, tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.write_figures({**results, "gflop_a_caption": float("inf")}, tmp_path / "tiny")


def test_recorded_figures_are_json():
    for path in (Path(report.__file__).parent / "results").glob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)


def test_a_load_without_answers_gives_figures():
    figures = load._figures(Outcome(seconds=1))
    assert (figures["p50_ms"], figures["captions_per_second"]) == (None, 0)


class Failing(Contender):
    """One that fails as the test wants."""

    name, concurrency, precision = "failing", 2, "fp32"

    def __init__(self, **errors):
        self.errors = errors

    def _fail(self, where):
        if where in self.errors:
            raise self.errors[where]

    def __enter__(self):
        self._fail("start")
        return self

    def __exit__(self, *_exception):
        pass

    def caption(self, _image):
        self._fail("caption")
        return "a caption"


@pytest.mark.parametrize(
    "errors",
    [{"start": PlanError("not on this GPU")}, {"caption": errors.DeadlineExceededError("30 s passed")}],
)
def test_a_contender_that_cannot_be_built_or_captions_nothing_is_left_out(errors, capsys):
    with contextlib.ExitStack() as stack:
        assert run._first_caption(Failing(**errors), Path("x"), stack) is None
        assert run._first_caption(Failing(), Path("x"), stack) == "a caption"
    assert "failing does not start: " in capsys.readouterr().err


def test_a_server_is_built_when_it_is_started(monkeypatch, tmp_path):
    def built(*_arguments):
        raise PlanError("not on this GPU")

    monkeypatch.setattr(contenders, "built", built)
    server = contenders.Server(tmp_path, "onnxruntime", "fp32", tmp_path, 1)
    with pytest.raises(PlanError):
        server.__enter__()


def test_a_refusal_costs_a_round_its_own_figure_alone(monkeypatch):
    monkeypatch.setattr(run, "ceilings", lambda _device: {"fp32": 1.0})
    images = [Path("x"), Path("y")]
    slow, right = Failing(caption=errors.DeadlineExceededError("30 s passed")), Failing()
    slow.name = "slow"
    rounds = [run._round([slow, right], images, 1, 0, "cpu")]
    assert rounds[0]["slow"] == (None, None)
    assert run._summary(slow, rounds, images)["captions_per_second"] is None
    assert run._summary(right, rounds, images)["captions_per_second"] > 0


def test_another_contender_begins_in_every_round(monkeypatch):
    monkeypatch.setattr(run, "ceilings", lambda _device: {"fp32": 1.0})
    monkeypatch.setattr(ways, "_arrivals", lambda *_: 1.0)
    everybody = [Failing() for _ in range(3)]
    for number, contender in enumerate(everybody):
        contender.name = f"number {number}"
    images = [Path("x"), Path("y")]
    begins = [list(run._round(everybody, images, 1, number, "cpu"))[1] for number in range(4)]
    assert begins == ["number 0", "number 1", "number 2", "number 0"]
    begins = [next(iter(ways._round(everybody, images, [images] * 3, number))) for number in range(4)]
    assert begins == ["number 0", "number 1", "number 2", "number 0"]


def test_a_checkpoint_whose_writing_was_interrupted_is_none(monkeypatch, tmp_path):
    def interrupted(folder, *_):
        (folder / "pytorch_model.bin").write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.write_random("tiny", tmp_path / "work" / "tiny", image_size=96)
    assert not list(tmp_path.rglob("*.bin"))
    monkeypatch.undo()
    whole = checkpoints.write_random("tiny", tmp_path / "work" / "tiny", image_size=96)
    assert load_checkpoint(str(whole)).config == config_of("tiny")


@pytest.mark.parametrize(
    ("flags", "wanted"), [([], (8, 64)), (["--size=huge"], (1, 1)), (["--size=huge", "--device=gpu"], (8, 64))]
)
def test_large_models_get_less_at_a_time_on_a_cpu(flags, wanted, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run", *flags])
    given = run._flags()
    assert (given.concurrency, given.largest_batch) == wanted


def test_cores_are_those_that_may_be_used(monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 3)
    assert machine.describe()["cores"] == 3
    monkeypatch.setattr(servers, "usable_cores", lambda: 3)
    assert servers.machine().startswith("3 cores of ")


def test_other_ways_run_the_checkpoint_that_was_built(monkeypatch, tmp_path):
    built = SimpleNamespace(checkpoint=SimpleNamespace(sha256="a", name="coco"))
    monkeypatch.setattr(ways.Manifest, "read", lambda _path: built)
    monkeypatch.setattr(ways, "load_checkpoint", lambda _path: SimpleNamespace(sha256=digest))
    digest = "a"
    ways._check(tmp_path, Path("coco"))
    digest = "b"
    with pytest.raises(SystemExit, match="was built from coco, not from emoji: give"):
        ways._check(tmp_path, Path("emoji"))


@pytest.mark.parametrize(("names", "output"), [([], "ways"), (["coco"], "ways-coco")])
def test_other_ways_of_another_checkpoint_have_a_result_of_their_own(names, output, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ways", *names])
    assert ways._flags().output.name == output


def test_a_run_of_a_gpus_engines_on_the_host_is_no_measurement_of_them(results, tmp_path):
    report.write_report({**results, "device": "host"}, tmp_path / "host")
    assert "not a measurement of them" in (tmp_path / "host.md").read_text().splitlines()[0]


def test_other_ways_are_held_against_the_first(results, tmp_path):
    figures = {"alone_ms": 10.0, "captions_per_second": 40.0, "crowd_p99_ms": 500.0, "arrivals_p99_ms": 90.0}
    ways = {
        "first": {**figures, "same_captions": True},
        "other": {
            **figures,
            "alone_ms": 25.0,
            "captions_per_second": 20.0,
            "arrivals_p99_ms": float("nan"),
            "same_captions": False,
        },
    }
    ways_report.write_report({**results, "checkpoint": "c", "in_flight": 16, "ways": ways}, tmp_path / "ways")
    assert "| other | 25.0 | 2.50 | 20.0 | 0.50 | 500 | - | no |" in (tmp_path / "ways.md").read_text()
    assert json.loads((tmp_path / "ways.json").read_text())["ways"]["other"]["arrivals_p99_ms"] is None
    assert (tmp_path / "ways.png").stat().st_size > 0


@pytest.mark.parametrize(("nan", "median"), [(0, 3), (2, 2), (3, None)])
def test_a_figure_is_the_median_of_the_rounds_that_have_it_if_those_are_most(nan, median):
    rounds = [{"p99": float(number)} for number in range(1, 6 - nan)] + [{"p99": math.nan}] * nan
    found = ways._medians(rounds)["p99"]
    assert math.isnan(found) if median is None else found == median


def test_a_slow_way_is_not_asked_for_longer_than_the_first():
    images = [Path(str(number)) for number in range(10)]
    crowds = ways._requests(images, 240, [40.0, 50.0, 20.0, 6.0, 0.1])
    assert [len(crowd) for crowd in crowds] == [240, 240, 120, 36, 10]
    assert set(crowds[-1]) == set(images)


def test_who_follows_whom_differs_from_turn_to_turn_and_not_from_run_to_run():
    servers = ["a", "b", "c", "d", "e"]
    turns = list(observability._turns(servers, 500))
    assert all(sorted(turn) == servers for turn in turns)
    follows = Counter(pair for turn in turns for pair in pairwise(turn))
    assert len(follows) == 20
    assert min(follows.values()) > 50
    assert list(islice(observability._turns(servers, 5), 5)) == turns[:5]


def test_a_server_that_tells_nothing_sets_no_gauge():
    """In a process of its own, for it changes the models' classes, with a stand-in for Triton."""
    triton = "from types import SimpleNamespace as Any; import sys; told = []; Metric = Any(set=told.append); "
    triton += "Family = lambda *_: Any(Metric=lambda labels: Metric); Family.GAUGE = 0; "
    triton += "sys.modules['triton_python_backend_utils'] = Any(MetricFamily=Family); "
    telling = "from ofa_serving.models.triton import Gauge; Gauge('n', 'd', 'm').set(3); print(told)"
    muting = Path(observability.HERE / "uncounted.py").read_text()

    def told(program):
        return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout

    assert told(f"{triton}\n{telling}") == "[0, 3]\n"
    assert told(f"{triton}\n{muting}\n{telling}") == "[]\n"
