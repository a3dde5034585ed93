"""The tests that documents name are there: a promise whose test was renamed would look kept for ever."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCUMENTS = [TESTS.parent / name for name in ("docs/reliability.md", "docs/client.md", "SECURITY.md")]
FILES = list(TESTS.rglob("test_*.py"))
FUNCTIONS = {name for path in FILES for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)}


def named(document):
    """What it calls ``path/test_file.py`` or ``test_function``, which ``…`` may cut short."""
    return re.findall(
        r"`((?:[a-z_]+/)*test_\w+\.py)?(?:::)?(test_\w+)?(…)?(?:\[[^`]*\])?`", document.read_text("utf-8")
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_the_tests_that_it_names_are_there(document):
    lacking = []
    for file, function, is_cut in named(document):
        if file and not any(path.as_posix().endswith(f"/{file}") for path in FILES):
            lacking.append(file)
        if function and not any(name.startswith(function) if is_cut else name == function for name in FUNCTIONS):
            lacking.append(function)
    assert not lacking


def test_there_are_names():
    assert sum(len(named(document)) for document in DOCUMENTS) > 90
