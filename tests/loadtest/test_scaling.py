"""The chart's autoscaling: the controller's rules, and a day of traffic over servers as they were measured."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("helm_python", reason="needs the extra 'deploy'")

from loadtest.knee import TARGET_LOAD
from loadtest.scaling import measure
from loadtest.scaling.autoscaler import Autoscaler
from loadtest.scaling.chart import autoscaler_spec
from loadtest.scaling.curve import ServiceCurve
from loadtest.scaling.day import RUSH, rates_of_a_day
from loadtest.scaling.replay import IN_FLIGHT, RATE, RATIO, needed, replay

CURVE = Path(__file__).parents[1] / "data/service-curve.json"
"""A copy of the recorded one, which ``make scaling`` writes anew."""

SPEC = autoscaler_spec()
OBJECTIVE_SECONDS, OBJECTIVE_SHARE = 2.5, 0.99
PEAK_SERVERS, START_SECONDS = 6, 60


def autoscaler(replicas):
    return Autoscaler(SPEC, replicas)


def pods(count):
    return [f"pod-{number}" for number in range(count)]


def sync(scaler, now, in_flight, ready=None):
    """One round with every ready pod at so many requests in flight."""
    ready = pods(scaler.replicas) if ready is None else ready
    return scaler.sync(now, values(ready, in_flight), ready)


def values(ready, in_flight=0.0, ratio=0.0, per_second=0.0):
    """Each metric, every pod's alike."""
    all_of_them = {RATE: per_second, IN_FLIGHT: in_flight, RATIO: ratio}
    return {name: dict.fromkeys(ready, value) for name, value in all_of_them.items()}


def test_the_chart_scales_on_all_three_metrics():
    assert set(autoscaler(2).targets) == {RATE, IN_FLIGHT, RATIO}


def test_without_a_known_capacity_it_scales_on_the_other_two():
    spec = autoscaler_spec({"autoscaling": {"requestsPerSecond": "0"}})
    assert set(Autoscaler(spec, 2).targets) == {IN_FLIGHT, RATIO}


@pytest.mark.parametrize(
    ("in_flight", "wanted"),
    [(12, 4), (13, 4), (13.3, 5), (18, 6), (24, 8), (10.9, 4), (10, 4), (9, 3), (3, 1), (0, 0)],
)
def test_the_pods_wanted_bring_the_mean_to_its_target_of_12(in_flight, wanted):
    found = dict.fromkeys(pods(4), in_flight)
    assert autoscaler(4).recommend(found, 12, pods(4)) == wanted


def test_pods_that_start_are_taken_for_idle_so_that_a_rise_is_answered_once():
    found = dict.fromkeys(pods(2), 24.0)
    assert autoscaler(2).recommend(found, 12, pods(2)) == 4
    assert autoscaler(4).recommend(found, 12, pods(2)) == 4


def test_a_pod_without_metrics_is_taken_for_busy_when_it_would_be_removed():
    found = dict.fromkeys(pods(3), 4.0)
    assert autoscaler(4).recommend(found, 12, pods(3)) == 1
    assert autoscaler(4).recommend(found, 12, pods(4)) == 2


def test_without_any_metrics_the_number_stays():
    assert autoscaler(5).sync(0, values([]), pods(5)) == 5


def test_the_largest_of_the_wishes_counts():
    assert autoscaler(4).sync(0, values(pods(4), in_flight=12, ratio=0.75), pods(4)) == 6


def test_a_rise_at_most_doubles_in_half_a_minute():
    scaler = autoscaler(3)
    assert sync(scaler, 0, 60) == 6
    assert sync(scaler, 15, 60) == 6
    assert sync(scaler, 31, 60) == 10


def test_a_fall_waits_five_minutes_and_takes_a_quarter_a_minute():
    scaler = autoscaler(8)
    sync(scaler, 0, 12)
    assert [sync(scaler, now, 1) for now in (15, 150, 300)] == [8, 8, 8]
    assert sync(scaler, 315, 1) == 6
    assert sync(scaler, 330, 1) == 6
    assert sync(scaler, 390, 1) == 4


def test_the_number_stays_between_the_charts_bounds():
    scaler = autoscaler(2)
    assert [sync(scaler, now, 64) for now in range(0, 300, 30)][-1] == SPEC["maxReplicas"]
    assert [sync(scaler, now, 0) for now in range(300, 3000, 60)][-1] == SPEC["minReplicas"]


@pytest.fixture(scope="module")
def curve():
    return ServiceCurve.read(CURVE)


@pytest.fixture(scope="module")
def rates(curve):
    return rates_of_a_day(PEAK_SERVERS * TARGET_LOAD * curve.knee)


@pytest.fixture(scope="module")
def spec(curve):
    """The chart's, with the one value that an operator sets by what was measured."""
    return autoscaler_spec({"autoscaling": {"requestsPerSecond": f"{TARGET_LOAD * curve.knee:.2f}"}})


@pytest.fixture(scope="module")
def day(curve, rates, spec):
    return replay(rates, curve, spec, start_seconds=START_SECONDS)


def test_the_measured_server_does_more_the_more_is_in_flight_up_to_its_limit(curve):
    assert curve.in_flight == sorted(curve.in_flight)
    assert curve.in_flight[-1] <= curve.limit
    assert curve.knee > curve.per_second[0]


@pytest.mark.parametrize(
    ("limit", "numbers"), [(1, [1]), (20, [1, 2, 4, 8, 12, 16, 20]), (64, [1, 2, 4, 8, 12, 16, 24, 32, 48, 64])]
)
def test_ever_more_is_kept_in_flight_up_to_the_servers_limit(limit, numbers):
    assert list(measure.numbers_up_to(limit)) == numbers


def test_what_was_measured_before_a_refusal_is_kept(monkeypatch):
    async def row(_server, _model, count, _seconds):
        if count == 8:
            raise measure.RefusedError("3 DEADLINE_EXCEEDED")
        return float(count), 0.1, 0.2

    monkeypatch.setattr(measure, "_row", row)
    monkeypatch.setattr(measure, "_counters", lambda _server: {"ofa_images_in_flight_limit": 64.0})
    found = measure.measure_curve(None, "m", 1, "a test")
    assert found.in_flight == [1, 2, 4]
    assert not found.bounded


def test_a_knee_is_one_if_more_was_measured(curve):
    assert curve.bounded


def test_the_day_keeps_the_latency_objective(day):
    assert day.slow_share(OBJECTIVE_SECONDS) <= 1 - OBJECTIVE_SHARE


def test_every_arrival_is_answered_or_refused_or_still_in_flight(day):
    answered = sum(samples[-1].answered for samples in day.scrapes.values())
    assert answered + day.refused.sum() == pytest.approx(day.arrivals.sum(), rel=0.001)


def test_the_servers_follow_the_traffic(day, rates, curve):
    ideal = needed(rates, curve, SPEC["minReplicas"], SPEC["maxReplicas"])
    ready = day.ready
    quiet = slice(0, RUSH[0])
    assert np.mean(np.abs(ready - ideal)[quiet] <= 1) > 0.9
    assert ready.mean() <= 1.3 * ideal.mean()
    assert ready[2 * 3600 : 5 * 3600].max() == SPEC["minReplicas"]


def test_the_rush_is_met_and_its_servers_leave_again(day):
    ready = day.ready
    before, during = ready[RUSH[0] - 1], ready[slice(*RUSH)].max()
    assert during > before
    assert ready[RUSH[1] + 1800] < during


def test_without_the_rate_the_number_swings(day, rates, curve):
    """The other two metrics say little until a server has had enough, and then everything."""
    evening = slice(18 * 3600, 22 * 3600)
    spec = autoscaler_spec({"autoscaling": {"requestsPerSecond": "0"}})
    swinging = replay(rates[evening], curve, spec, start_seconds=START_SECONDS)
    assert _changes(swinging.ready) > 2 * _changes(day.ready[evening])


def _changes(numbers):
    return np.abs(np.diff(numbers)).sum()
