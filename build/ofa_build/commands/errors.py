"""What these commands fail with on purpose: one line for the user, and no stack trace."""

from ..data import DataError
from ..evaluation.captioners import ServerError
from ..evaluation.metrics import MetricError

EXPECTED = (DataError, MetricError, ServerError)
