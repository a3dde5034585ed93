"""The Dockerfile and the compose files, as far as they can be checked without Docker."""

import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml", reason="needs the extra 'deploy'")
ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
STAGES = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
TARGETS = ("cpu", "gpu", "plans")


def tool(name):
    """A program of this environment; its absence is no fault of the files."""
    program = Path(sysconfig.get_path("scripts")) / name
    if not program.exists():
        pytest.skip(f"needs {name}, of the extra 'deploy'")
    return program


def stage(target):
    return next(text for text in STAGES if text.split("\n")[0].endswith(f"AS {target}"))


def compose_config(*files):
    arguments = [word for file in files for word in ("-f", str(DEPLOY / file))]
    result = subprocess.run(
        [tool("docker-compose"), *arguments, "config"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    return yaml.safe_load(result.stdout)["services"]


def test_the_linter_finds_nothing_in_the_dockerfile():
    result = subprocess.run(
        [tool("hadolint"), DEPLOY / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_base_is_nvidias_container_of_2606_or_later_with_a_place_for_its_digest():
    year, month = map(
        int, re.search(r"^ARG TRITON_IMAGE=nvcr\.io/nvidia/tritonserver:(\d\d)\.(\d\d)-py3$", DOCKERFILE, re.M).groups()
    )
    assert (year, month) >= (26, 6)
    assert "FROM ${TRITON_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}} AS base" in DOCKERFILE


@pytest.mark.parametrize("target", TARGETS)
def test_no_image_runs_as_root(target):
    users = re.findall(r"^USER (\S+)$", stage(target), re.MULTILINE)
    assert users[-1] == "10001:10001"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_starts_a_command_that_the_package_installs(target):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    command = re.search(r"^ENTRYPOINT \[(.+)\]$", stage(target), re.MULTILINE)[1].split('"')[-2]
    probe = re.search(r'^HEALTHCHECK .* CMD \["(.+)"\]$', stage("serving"), re.MULTILINE)[1]
    assert {command, probe} <= set(scripts)


def test_the_images_own_check_gives_the_probe_its_time():
    assert int(re.search(r"^HEALTHCHECK .*--timeout=(\d+)s", stage("serving"), re.MULTILINE)[1]) >= 14 + 5


def test_what_the_dockerfile_copies_reaches_the_builder():
    copied = {word for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()}
    let_through = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert copied == let_through


def test_a_change_of_the_sources_leaves_the_packages_layer_alone():
    assert DOCKERFILE.index("--require-hashes -r requirements/") < min(
        DOCKERFILE.index(f"COPY {folder} {folder}\n") for folder in ("backends", "serving", "build", "model_repository")
    )


def test_the_proxy_is_started_anew_with_the_server_whose_address_it_knows():
    """Where Compose replaces the server's container; nginx asks for an upstream's address when it starts."""
    assert compose_config("compose.yaml")["proxy"]["depends_on"]["triton"]["restart"]


def test_compose_reads_its_files_without_a_warning():
    assert set(compose_config("compose.yaml")) == {"triton", "proxy", "prometheus", "grafana"}
    gpu = compose_config("compose.yaml", "compose.gpu.yaml")["triton"]
    assert gpu["image"] == "ofa-triton:gpu"
    assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_every_service_is_read_only_without_capabilities_and_reaches_the_world_through_loopback():
    for service in compose_config("compose.yaml").values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))


def test_the_server_itself_publishes_nothing():
    assert "ports" not in compose_config("compose.yaml")["triton"]


def test_the_grace_period_covers_the_launchers_own():
    triton = compose_config("compose.yaml")["triton"]
    launcher = int(triton["environment"]["OFA_STOP_TIMEOUT"]) + 10
    assert int(triton["stop_grace_period"].removesuffix("s")) >= launcher + 5


def test_every_file_that_compose_mounts_exists():
    for name, service in compose_config("compose.yaml").items():
        for mount in service.get("volumes", []):
            if mount["type"] == "bind" and name != "triton":
                assert Path(mount["source"]).exists(), mount["source"]
