"""Put before a served model's ``model.py``, this has it count, log and publish nothing of its requests.

Only :mod:`benchmarks.observability` serves so, to have something to compare with.
"""

from ofa_serving.metrics import EntryMetrics, ImageMetrics
from ofa_serving.models.publishing import Publisher
from ofa_serving.models.triton import Gauge
from ofa_serving.telemetry.requests import RequestLog


def _nothing(*_arguments: object, **_more: object) -> None:
    """Takes the place of what would tell of a request."""


for _owner, _names in (
    (EntryMetrics, ("answered", "staged", "stuck")),
    (ImageMetrics, ("received",)),
    (Gauge, ("set",)),
    (Publisher, ("_publish", "_run")),
    (RequestLog, ("answered", "stage")),
):
    for _name in _names:
        setattr(_owner, _name, _nothing)
