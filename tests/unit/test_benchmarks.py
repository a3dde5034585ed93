"""What the benchmarks count and write, without measuring."""

import json

import pytest
from ofa_serving.contract import STAGES

from benchmarks import ceiling, machine, report
from benchmarks.arithmetic import gflop_a_caption
from benchmarks.checkpoints import config_of
from benchmarks.plots import floor_ms
from benchmarks.ways import report as ways_report

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
    for plot in ("stages", "floor", "load"):
        assert f"![{plot}](gpu-tiny-480-{plot}.png)" in text
        assert (tmp_path / f"gpu-tiny-480-{plot}.png").stat().st_size > 0


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
