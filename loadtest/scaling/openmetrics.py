"""A replay's scrapes as OpenMetrics text, from which Prometheus fills its database as if it had scraped them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TextIO

from loadtest.scaling.replay import Sample

_NAMESPACE = "vision"


def write_openmetrics(out: TextIO, scrapes: Mapping[str, Sequence[Sample]], begin: int) -> None:
    """Writes every pod's samples, under the names and labels of a cluster.

    Args:
        out: where to.
        scrapes: by pod, in order of time.
        begin: Unix time of the replay's second 0.
    """
    _family(out, "ofa_images_in_flight", "gauge", scrapes, begin, {"": lambda one: one.in_flight})
    _family(out, "ofa_requests", "counter", scrapes, begin, {'code="OK"': lambda one: one.answered}, "_total")
    stages = {'stage="search_queue"': lambda one: one.waiting, 'stage="search"': lambda one: one.computing}
    _family(out, "ofa_stage_duration_seconds", "summary", scrapes, begin, stages, "_sum")
    out.write("# EOF\n")


def _family(
    out: TextIO,
    name: str,
    kind: str,
    scrapes: Mapping[str, Sequence[Sample]],
    begin: int,
    values: Mapping[str, object],
    suffix: str = "",
) -> None:
    out.write(f"# TYPE {name} {kind}\n")
    for pod, samples in scrapes.items():
        for label, value in values.items():
            labels = ",".join(filter(None, (f'namespace="{_NAMESPACE}",pod="{pod}",model="ofa_caption"', label)))
            for sample in samples:
                out.write(f"{name}{suffix}{{{labels}}} {value(sample)!r} {begin + sample.second}\n")
