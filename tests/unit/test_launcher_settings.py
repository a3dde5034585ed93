"""Every flag is an environment variable as well; a flag wins."""

import re
from pathlib import Path

import pytest
from ofa_serving.launcher import helm_values, probe
from ofa_serving.launcher.settings import Ports, parse_settings


def test_the_defaults_serve_the_default_name_on_loopback():
    settings = parse_settings([], {})
    assert settings.names == ("ofa_caption",)
    assert settings.host == "127.0.0.1"
    assert settings.ports == Ports(8000, 8001, 8002)
    assert settings.artifacts == Path.cwd() / "artifacts"


def test_the_environment_gives_what_flags_leave_out():
    environ = {"OFA_NAMES": "one two", "OFA_HOST": "0.0.0.0", "OFA_HTTP_PORT": "80", "OFA_GRPC_PORT": "81"}
    settings = parse_settings(["--grpc-port=82", "--artifacts=/models"], environ)
    assert settings.names == ("one", "two")
    assert settings.host == "0.0.0.0"
    assert settings.ports == Ports(80, 82, 8002)
    assert settings.artifacts == Path("/models")


def test_names_on_the_command_line_win_and_count_once():
    assert parse_settings(["a", "b", "a"], {"OFA_NAMES": "c"}).names == ("a", "b")


def test_an_empty_variable_is_an_unset_one():
    assert parse_settings([], {"OFA_HTTP_PORT": "", "OFA_NAMES": ""}) == parse_settings([], {})


@pytest.mark.parametrize(("host", "reachable"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("10.1.2.3", "10.1.2.3")])
def test_clients_of_this_machine_reach_a_server_that_listens_everywhere(host, reachable):
    assert parse_settings([f"--host={host}"], {}).reachable_host == reachable


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        (["--http-port=65536"], {}),
        (["--http-port=-1"], {}),
        (["--grpc-port=http"], {}),
        ([], {"OFA_METRICS_PORT": "65536"}),
        (["--stop-timeout=0"], {}),
        (["--max-restarts=-1"], {}),
        (["--start-timeout=soon"], {}),
        (["--log-format=xml"], {}),
        (["--request-log=some"], {}),
        (["--shared-memory-key=short"], {}),
        (["--shared-memory-key=sixteen-and-more,logging"], {}),
    ],
)
def test_a_value_out_of_range_ends_with_the_usage(arguments, environ, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_settings(arguments, environ)
    assert ended.value.code == 2
    assert re.search(r"error: argument --[a-z-]+: .*(is not a|is none of|has at least) ", capsys.readouterr().err)


def test_the_help_shows_what_a_variable_holds(capsys):
    with pytest.raises(SystemExit) as ended:
        parse_settings(["--help"], {"OFA_ARTIFACTS": "/data/100%done", "OFA_NAMES": "owls 50%"})
    assert ended.value.code == 0
    shown = "".join(capsys.readouterr().out.split())
    assert "default/data/100%done" in shown
    assert "defaultowls50%" in shown


@pytest.mark.parametrize(("program", "module"), [("ofa-probe", probe), ("ofa-helm-values", helm_values)])
def test_what_takes_the_servers_flags_says_its_own_name(program, module, capsys):
    with pytest.raises(SystemExit):
        module.main(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: {program} ")
