"""Every distribution that the development environment brings is pinned, and installed as pinned."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
BUILD, PROJECT = map(tomllib.loads((ROOT / "pyproject.toml").read_text()).get, ("build-system", "project"))
PINS = {
    canonicalize_name(line.partition("==")[0]): line.strip().partition("==")[2]
    for line in (ROOT / "constraints.txt").read_text().splitlines()
}
ELSEWHERE = {
    "torch",  # scripts/environment names it, by itself
    "setuptools",  # the environment's own
    "ofa-triton",
    "ofa-client",
    "tensorrt",  # the container's
    "onnxruntime-gpu",
    "cupy-cuda13x",
}


def locked(name):
    """The versions in a file of requirements/, by name, and how many hashes each has."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    entries = re.findall(r"^(\S+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})*)$", text, re.MULTILINE)
    assert text.count("==") == len(entries)
    return {name: version for name, version, _ in entries}, {name: text.count("sha256") for name, _, text in entries}


def brought_by(requirements):
    """Names of the installed distributions that requirements lead to, themselves among them."""
    found, waiting = {}, [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        extras = {"", *requirement.extras}
        if name in ELSEWHERE or extras <= found.get(name, set()):
            continue
        try:
            needs = [Requirement(text) for text in distribution(name).requires or []]
        except PackageNotFoundError:
            continue
        found.setdefault(name, set()).update(extras)
        for need in needs:
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(need)
    return set(found)


@pytest.mark.parametrize("extra", sorted(PROJECT["optional-dependencies"]))
def test_what_an_extra_brings_is_pinned_and_installed_as_pinned(extra):
    names = brought_by([*PROJECT["dependencies"], *PROJECT["optional-dependencies"][extra]])
    assert {name for name in names if name not in PINS} == set()
    assert {name: distribution(name).version for name in names} == {name: PINS[name] for name in names}


def test_no_two_places_name_another_version():
    named = [Requirement(text) for texts in PROJECT["optional-dependencies"].values() for text in texts]
    versions = {canonicalize_name(requirement.name): str(requirement.specifier) for requirement in named}
    differing = {name: text for name, text in versions.items() if name in PINS and text not in ("", f"=={PINS[name]}")}
    assert differing == {}


def test_every_pin_has_its_hashes():
    """``make lock`` writes them."""
    pins, hashes = locked("development")
    assert pins == PINS
    assert [name for name, count in hashes.items() if not count] == []


def test_the_production_image_installs_every_package_of_the_server_by_hash():
    pins, hashes = locked("serving")
    extras = PROJECT["optional-dependencies"]
    needed = brought_by([*PROJECT["dependencies"], *extras["serving"], *extras["tracing"], *BUILD["requires"]])
    assert needed - pins.keys() == set()
    assert {name: version for name, version in pins.items() if PINS.get(name, version) != version} == {}
    assert [name for name, count in hashes.items() if not count] == []


def test_this_project_is_installed_by_what_came_by_hash():
    """By itself pip fetches hatchling, and editables for ``-e``, anew, whatever an index answers."""
    assert [f"hatchling=={PINS['hatchling']}"] == BUILD["requires"]
    assert "editables" in PINS
    places = {ROOT / "Makefile", ROOT / "deploy/Dockerfile", *(ROOT / "scripts").iterdir()}
    places.remove(ROOT / "scripts/client-pythons")  # tries the newest of everything, and builds what has no wheel
    lines = [line for place in places for line in place.read_text().splitlines()]
    this = re.compile(r"""\binstall\b.*\s["']?(\./)?(\.|client)(\[[^]]*\])?["']?(\s|$)""")
    installs = [line.strip() for line in lines if "pip" in line and this.search(line)]
    assert len(installs) >= 7
    assert [line for line in installs if "--no-build-isolation" not in line] == []
