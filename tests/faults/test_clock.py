"""A clock that jumps moves no deadline: what is waited for is measured on the monotonic one."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [path for folder in ("serving", "backends", "model_repository") for path in (ROOT / folder).rglob("*.py")]
TELLING_THE_TIME = {"telemetry"}
"""Folders whose files write times down for people, and wait for nothing."""

WALL = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_measured_on_the_wall_clock(path):
    tree = ast.parse(path.read_text())
    calls = {
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert calls & WALL == set() or path.parent.name in TELLING_THE_TIME
