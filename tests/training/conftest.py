"""A small checkpoint, its data, and an undisturbed run."""

import pytest
from captioned import write_jsonl
from small_model import write_small


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(checkpoint, data, tmp_path_factory):
    """An uninterrupted run's folder."""
    from small_run import train

    work = tmp_path_factory.mktemp("whole")
    train(checkpoint, data, work)
    return work
