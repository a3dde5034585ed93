"""The chart, rendered."""

import pytest
from chart import render


@pytest.fixture(scope="module")
def defaults():
    return render({})
