"""The cores a process may use: what it is bound to, and a container's limit of either kind of control groups."""

import os

import pytest
from ofa_serving.cores import usable_cores

ALLOWED = len(os.sched_getaffinity(0))


def test_without_control_groups_all_allowed_cores(tmp_path):
    assert usable_cores(tmp_path) == ALLOWED


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", ALLOWED),
        ("50000 100000", 1),
        ("100000 100000", 1),
        (f"{ALLOWED * 50000 + 1} 50000", ALLOWED),
        ("6400000 100000", min(64, ALLOWED)),
        ("nonsense", ALLOWED),
    ],
)
def test_a_limit_of_version_2(tmp_path, limit, cores):
    (tmp_path / "cpu.max").write_text(limit + "\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", ALLOWED), ("30000", 1), ("100000", 1)])
def test_a_limit_of_version_1(tmp_path, quota, cores):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == cores


def test_a_process_bound_to_one_core_has_one(tmp_path):
    everything = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everything)})
    try:
        assert usable_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, everything)
