import pytest
from cases import CASES


@pytest.fixture(params=CASES, ids=lambda case: case.name, scope="session")
def case(request):
    return request.param
