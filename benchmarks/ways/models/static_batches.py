"""The search's ``model.py`` for benchmarks.ways.static_batches."""

from ofa_serving.models import beam_search
from ofa_serving.scheduler import Scheduler


class StaticScheduler(Scheduler):
    """Lets nobody join a search under way."""

    def _join(self) -> None:
        if not self.searching:
            super()._join()


beam_search.Scheduler = StaticScheduler
TritonPythonModel = beam_search.BeamSearchModel
