"""What ``tritonserver`` is told about who may do what."""

import re

import pytest
from ofa_serving.launcher.embedded import Installation
from ofa_serving.launcher.settings import Ports
from ofa_serving.launcher.triton import triton_command

KEY = "the-key-of-this-server"


@pytest.fixture
def command(tmp_path):
    """Make the command line for a Triton whose ``--help`` says ``usage``."""

    def command(usage="", **settings):
        binary = tmp_path / "tritonserver"
        binary.write_text(f"#!/bin/sh\necho '{usage}'\n")
        binary.chmod(0o755)
        where = {"host": "127.0.0.1", "ports": Ports(1, 2, 3), "region_prefix": "x"}
        times = {"start_timeout": 1, "exit_timeout": 1}
        installation = Installation(binary, tmp_path / "backends", {})
        return triton_command(installation, [], **where, **times, calls=1, gpu=False, **settings)

    return command


def keys(command):
    """What each protocol's interfaces ask for: by flag and interface, the key."""
    return {
        (flag, name): key
        for argument in command
        for flag, names, key in re.findall(r"^--(http|grpc)-restricted-\w+:?=?([\w,-]+):[\w-]+=(\S+)$", argument)
        for name in names.split(",")
    }


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("interface", ["shared-memory", "model-repository", "trace", "logging"])
def test_each_interface_that_changes_the_server_asks_for_a_key_of_this_start(command, protocol, interface):
    first, second = keys(command()), keys(command())
    assert len(first[protocol, interface]) == 32
    assert first[protocol, interface] != second[protocol, interface]


def test_a_key_for_shared_memory_opens_nothing_else(command):
    opened = {name for (_, name), key in keys(command(shared_memory_key=KEY)).items() if key == KEY}
    assert opened == {"shared-memory"}


def test_a_triton_that_has_a_switch_for_shared_memory_is_told_only_with_a_key(command):
    newer = "  --allow-client-shm <boolean>"
    assert "--allow-client-shm=true" in command(newer, shared_memory_key=KEY)
    assert "--allow-client-shm=true" not in command(newer)
    assert "--allow-client-shm=true" not in command("", shared_memory_key=KEY)
