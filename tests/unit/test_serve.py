"""What is checked before a server starts."""

import pytest
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.serve import serve
from ofa_serving.launcher.settings import parse_settings


@pytest.mark.parametrize("flag", ["--artifacts", "--run-folder"])
def test_paths_that_triton_would_take_apart_are_refused(tmp_path, flag):
    folder = tmp_path / "a b"
    with pytest.raises(LaunchError, match=f"a path with spaces, '{folder}': choose {flag}"):
        serve(parse_settings([f"{flag}={folder}"]))
