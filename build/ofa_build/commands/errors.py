"""What these commands fail with on purpose: one line for the user, and no stack trace."""

from ..data import DataError
from ..evaluation.captioners import ServerError
from ..evaluation.metrics import MetricError
from ..training.recipe import RecipeError
from ..training.work_folder import RunError

EXPECTED = (DataError, MetricError, RecipeError, RunError, ServerError)
