"""``python -m loadtest.scaling``: measures a server, replays a day of traffic over such servers, and plots it."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from loadtest.knee import TARGET_LOAD
from loadtest.scaling.chart import autoscaler_spec
from loadtest.scaling.curve import DAY_CURVE, ServiceCurve
from loadtest.scaling.day import rates_of_a_day
from loadtest.scaling.measure import RefusedError, measure_curve
from loadtest.scaling.plot import plot_day
from loadtest.scaling.replay import needed, replay
from loadtest.servers import QUIET, leave_in_order, served

START_SECONDS = 60
"""A pod's start in the replay: scheduling, image, models, known image."""

PEAK_SERVERS = 6
"""The evening's peak is what so many servers take at their target load."""

OBJECTIVE_SECONDS = 2.5

logger = logging.getLogger("loadtest.scaling")


def main() -> int:
    """Returns 0, 1 if the day missed the chart's latency objective (99 % within 2.5 s), 2 if nothing was measured."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    leave_in_order()
    parser = argparse.ArgumentParser(prog="loadtest.scaling", description=__doc__)
    parser.add_argument("--serve", metavar="NAME", help="measure this built checkpoint first, instead of the recorded")
    parser.add_argument("--seconds", type=float, default=6, help="of measuring each number of requests in flight")
    parser.add_argument("--curve", type=Path, default=DAY_CURVE)
    parser.add_argument("--plot", type=Path, default=DAY_CURVE.with_name("autoscaling-day.png"))
    flags = parser.parse_args()
    if flags.serve:
        with served(flags.serve, flags=QUIET) as server:
            try:
                measure_curve(server, flags.serve, flags.seconds, "make scaling").write(flags.curve)
            except RefusedError as error:
                logger.error("not even one request at a time is answered: %s", error)
                return 2
    curve = ServiceCurve.read(flags.curve)
    if not curve.bounded:
        logger.info("the knee, %.1f/s, is the most that was measured: the server may do more", curve.knee)
    spec = autoscaler_spec({"autoscaling": {"requestsPerSecond": f"{TARGET_LOAD * curve.knee:.2f}"}})
    rates = rates_of_a_day(PEAK_SERVERS * TARGET_LOAD * curve.knee)
    result = replay(rates, curve, spec, start_seconds=START_SECONDS)
    ideal = needed(rates, curve, spec["minReplicas"], spec["maxReplicas"])
    slow = result.slow_share(OBJECTIVE_SECONDS)
    plot_day(flags.plot, rates, ideal, result, curve)
    requests, refused = result.arrivals.sum(), result.refused.sum()
    logger.info("%d requests, %d refused, %.3f %% over %.1f s", requests, refused, slow * 100, OBJECTIVE_SECONDS)
    logger.info("servers: %.2f on average, %d at most", result.ready.mean(), result.ready.max())
    logger.info("in hindsight: %.2f on average, %d at most; see %s", ideal.mean(), ideal.max(), flags.plot)
    return int(slow > 0.01)


if __name__ == "__main__":
    sys.exit(main())
