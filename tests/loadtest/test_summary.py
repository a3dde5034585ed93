"""What a load test concludes from its results."""

import dataclasses
from pathlib import Path

import pytest

from loadtest.errors import LoadError
from loadtest.knee import Knee, conclusion, knee, replicas
from loadtest.mix import CALLER_LIMIT, OK, default_mix
from loadtest.report import Findings, write_report
from loadtest.scraping import Scraper, sums
from loadtest.shapes import Step, steps_of
from loadtest.summary import Result, failures, judge, summarise

pytest.importorskip("yaml", reason="needs the extra 'loadtest'")
from loadtest.thresholds import read_thresholds

THRESHOLDS = read_thresholds(Path(__file__).parents[2] / "loadtest/thresholds.yaml")
BEGIN = 1000.0
COUNTERS = {
    "ofa_search_tokens_total": 150.0,
    "ofa_search_steps_total": 100.0,
    "ofa_stage_duration_seconds_count": 20.0,
    "stage search": 4.0,
}


def result(due, seconds=0.2, code=OK, expected=OK, lag=0.001):
    return Result("example", BEGIN + due, lag, seconds, code, expected)


def at(rate, seconds=0.2, **changes):
    """The summary of a step of ten seconds whose requests all took ``seconds``."""
    results = [result(index / rate, seconds) for index in range(int(10 * rate))]
    return dataclasses.replace(summarise(Step(0, 10, rate), BEGIN, results, COUNTERS), **changes)


def beyond(rate, capacity, seconds=0.2):
    """The summary of a step of ten seconds at a server that answers ``capacity`` requests a second, in turn."""
    results = [result(index / rate, seconds + index / capacity - index / rate) for index in range(int(10 * rate))]
    return summarise(Step(0, 10, rate), BEGIN, results, COUNTERS)


def test_a_step_counts_the_requests_that_were_due_in_it():
    results = [result(1), result(9), result(10), result(-1)]
    assert summarise(Step(0, 10, 1), BEGIN, results, {}).requests == 2


def test_times_are_those_of_right_captions_alone():
    results = [result(1, 0.5), result(2, 9, code="INTERNAL"), result(3, 0.001, "EMPTY_IMAGE", "EMPTY_IMAGE")]
    summary = summarise(Step(0, 10, 1), BEGIN, results, {})
    assert summary.p50_seconds == summary.p99_seconds == 0.5
    assert summary.wrong_share == pytest.approx(1 / 3)


def test_a_backlog_that_is_worked_off_later_is_no_throughput():
    assert at(10).answered_ratio == 1
    late = beyond(10, capacity=2.5)
    assert late.answered_ratio == pytest.approx(0.25, abs=0.01)
    assert late.answered_per_second == pytest.approx(2.5, abs=0.1)


def test_a_slow_server_that_keeps_up_is_not_charged_for_its_last_captions():
    assert at(4, seconds=3).answered_ratio == 1
    slow = [dataclasses.replace(result(index, 3), name="beam 10") for index in range(10)]
    mixed = summarise(Step(0, 10, 2), BEGIN, [*slow, *(result(index, 0.2) for index in range(10))], {})
    assert mixed.answered_ratio == 1


def test_a_straggler_at_the_end_of_a_step_is_no_backlog():
    on_time = [result(index / 4) for index in range(79)]
    one = summarise(Step(0, 20, 4), BEGIN, [*on_time, result(19.75, 1.6)], {})
    assert (one.requests, one.answered_ratio) == (80, 1)
    assert failures(THRESHOLDS, [one]) == []
    assert knee([one]) == Knee(4, least=True)
    many = summarise(Step(0, 20, 4), BEGIN, [*on_time[:74], *(result(19.75, 1.6) for _ in range(6))], {})
    assert many.answered_ratio == 74 / 80


def test_the_servers_counters_give_batches_and_stages():
    summary = at(2)
    assert summary.captions_a_step == 1.5
    assert summary.stage_seconds == {"search": 0.2}


def test_the_knee_is_the_last_rate_that_the_server_keeps_up_with():
    summaries = [at(1), at(2), at(4), at(8, seconds=3.0)]
    assert knee(summaries) == Knee(4, least=False)
    assert knee([at(1), at(2), beyond(4, capacity=3)]) == Knee(2, least=False)
    assert knee([at(1), at(2)]) == Knee(2, least=True)
    assert knee([beyond(1, capacity=0.5)]) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"limited_share": 0.5}, "At 4 requests/s the proxy refused 50.0% as too many of one caller: raise"),
        ({"generator_lag_p99_seconds": 1}, "At 4 requests/s the generator was 1.00 s late"),
        ({"requests": 10}, "At 4 requests/s the generator sent 4/s: more WORKERS, or another machine"),
    ],
)
def test_a_step_that_says_nothing_of_the_server_is_no_knee_and_is_told(changes, told):
    summaries = [at(1), at(2), at(4, **changes)]
    found = knee(summaries, most_lag=0.25)
    assert found == Knee(2, least=True)
    assert told in conclusion(summaries, found, 0.25, 1, None)


def test_only_who_knows_the_number_of_servers_hears_of_one():
    summaries = [at(1), at(6), at(12, seconds=3)]
    found = knee(summaries)
    assert conclusion(summaries, found, 1, None, None) == "The service keeps up with 6.0 requests/s."
    assert conclusion(summaries, found, 1, 3, 13).startswith(
        "The 3 servers together keep up with 6.0 requests/s. That is 2.0 a server. 13 requests/s need 11 servers"
    )
    assert "13 requests/s need at most 5 servers" in conclusion(summaries[:2], knee(summaries[:2]), 1, 1, 13)


def test_a_proxys_refusal_of_one_caller_is_counted_by_itself():
    summary = summarise(Step(0, 10, 1), BEGIN, [result(1), result(2, code=CALLER_LIMIT)], {})
    assert (summary.limited_share, summary.rejected_share) == (0.5, 0.5)


def test_replicas_run_at_65_percent_of_the_knee_with_one_to_spare():
    assert replicas(65, 10) == 11
    assert replicas(66, 10) == 12


def test_a_good_run_passes():
    assert failures(THRESHOLDS, [at(1), at(2)]) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"wrong_share": 0.01}, "wrong_share is 0.01 at 2 requests/s, must be max 0"),
        ({"rejected_share": 0.01}, "rejected_share"),
        ({"p99_seconds": 6}, "p99_seconds"),
        ({"answered_ratio": 0.9}, "answered_ratio"),
        ({"generator_lag_p99_seconds": 1}, "generator_lag"),
    ],
)
def test_each_threshold_fails_a_run(changes, named):
    (sentence,) = failures(THRESHOLDS, [at(1), at(2, **changes)])
    assert sentence.startswith(named)


def test_each_threshold_is_judged_by_the_figure_that_comes_nearest_to_it():
    found = {one.name: one for one in judge(THRESHOLDS, [at(1, seconds=0.3), at(2, seconds=0.7), at(8, seconds=9)])}
    assert set(found) == set(THRESHOLDS) - {"rate"}
    assert (found["p99_seconds"].worst, found["p99_seconds"].rate, found["p99_seconds"].holds) == (0.7, 2, True)
    assert found["p99_seconds"].wanted == "max 5"
    (late,) = [one for one in judge(THRESHOLDS, [at(2, p99_seconds=6)]) if not one.holds]
    assert late.name == "p99_seconds"


def test_what_was_not_measured_is_told_and_breaks_nothing(tmp_path):
    blind = summarise(Step(0, 10, 2), BEGIN, [result(index / 2) for index in range(20)], {})
    assert (blind.captions_a_step, blind.images_a_run, blind.stage_seconds) == (None, None, {})
    thresholds = THRESHOLDS | {"captions_a_step": {"min": 1.5}}
    assert failures(thresholds, [blind]) == []
    (unknown,) = [one for one in judge(thresholds, [blind]) if one.holds is None]
    assert (unknown.name, unknown.worst) == ("captions_a_step", None)
    page, findings = tmp_path / "report.html", Findings("grpc://x:1", "constant", [blind], [unknown], [], None, "text")
    write_report(page, findings)
    assert page.read_text().count("not measured") >= 3
    assert findings.verdict == "not judged"


def test_a_judged_step_that_the_generator_could_not_make_fails():
    (sentence,) = failures(THRESHOLDS, [at(1, asked=4)])
    assert sentence == "the generator sent 1 of 4 requests/s: more WORKERS, or another machine"


def test_steps_beyond_the_rate_look_for_the_knee_and_may_fail():
    assert failures(THRESHOLDS, [at(2), at(50, wrong_share=0.5)]) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "no thresholds in .*: .*No such file"),
        ("rate: [", "no thresholds in .*: while parsing a flow"),
        ("", "no thresholds in .*: its rate says"),
        ("p50_seconds: {max: 1}", "no thresholds in .*: its rate says"),
        ("rate: {max: 4}", "no thresholds in .*: its rate says"),
        ("rate: 4\np50_second: {max: 1}", "no figure is called p50_second, but .*p50_seconds"),
        ("rate: 4\nstage_seconds: {max: 1}", "no figure is called stage_seconds"),
        ("rate: 4\np50_seconds: {maximum: 1}", "p50_seconds takes a number as min, max or both, not {'maximum': 1}"),
        ("rate: 4\np50_seconds: {max: 1, maximum: 1}", "p50_seconds takes"),
        ("rate: 4\np50_seconds: {max: 1 s}", "p50_seconds takes"),
        ("rate: 4\np50_seconds: {max: true}", "p50_seconds takes"),
        ("rate: 4\np50_seconds: {max: .nan}", "p50_seconds takes"),
        ("rate: 4\np50_seconds: {}", "p50_seconds takes"),
        ("rate: 4\np50_seconds: 1", "p50_seconds takes"),
    ],
)
def test_what_would_not_be_judged_is_refused_in_a_line(text, told, tmp_path):
    path = tmp_path / "thresholds.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(LoadError, match=told) as refusal:
        read_thresholds(path)
    assert "\n" not in str(refusal.value)


def test_a_threshold_may_have_two_bounds(tmp_path):
    (tmp_path / "thresholds.yaml").write_text("rate: 4\nanswered_ratio: {min: 0.95, max: 1}")
    assert read_thresholds(tmp_path / "thresholds.yaml")["answered_ratio"] == {"min": 0.95, "max": 1}


def test_shapes():
    assert [step.rate for step in steps_of("steps", 4, 10)] == [1, 2, 4, 8, 16, 32]
    assert [(step.start, step.rate) for step in steps_of("spike", 4, 30)] == [(0, 4), (10, 20), (20, 4)]
    assert steps_of("constant", 4, 10) == steps_of("soak", 4, 10) == [Step(0, 10, 4)]
    with pytest.raises(ValueError, match="no shape is called wave"):
        steps_of("wave", 4, 10)


def test_the_mix_has_good_and_bad_input_of_several_kinds():
    mix = default_mix()
    assert {case.expected for case in mix} >= {OK, "EMPTY_IMAGE", "UNSUPPORTED_FORMAT", "TRUNCATED_IMAGE"}
    bad = sum(case.weight for case in mix if case.expected != OK) / sum(case.weight for case in mix)
    assert 0.02 < bad < 0.1


def test_the_endpoints_text_becomessums():
    text = """nv_inference_count{model="a_encoder",version="1"} 7
nv_inference_count{model="a_preprocess",version="1"} 9
ofa_stage_duration_seconds_sum{model="a",stage="search"} 1.5
ofa_stage_duration_seconds_sum{model="b",stage="search"} 0.5
ofa_stage_duration_seconds_count{model="a",stage="search"} 3
ofa_stage_duration_seconds_count{model="a",stage="encode"} 3
"""
    assert sums(text) == {"nv_inference_count": 7, "stage search": 2, "ofa_stage_duration_seconds_count": 3}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:1/metrics", "refused"),
        ("captions:8002/metrics", "unknown url type"),
        ("x", "unknown url type"),
    ],
)
def test_a_wrong_address_of_counters_is_told_at_once(url, told):
    with pytest.raises(LoadError, match=f"no counters at {url}: .*{told}"), Scraper(url):
        pass


def test_without_an_address_there_are_no_counters():
    with Scraper(None) as nobody:
        pass
    assert nobody.growth(0, 1) == {}


def test_counters_that_shrink_are_of_several_servers_and_tell_nothing():
    scraper = Scraper(None)
    scraper._times = [1.0, 2.0, 3.0, 4.0]
    gauge, counter = "ofa_images_in_flight", "ofa_search_steps_total"
    scraper._samples = [{gauge: 9, counter: value} for value in (10.0, 30.0, 20.0, 50.0)]
    scraper._samples[1][gauge] = 1
    assert scraper.growth(1, 2) == {counter: 20}
    assert scraper.growth(1, 4) == {}
