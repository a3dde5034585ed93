"""Lays out the Triton that the ``nvidia-pytriton`` wheel carries, so that it runs from this Python environment.

The wheel's pieces are linked into one folder, together with what the server lacks:

* ``backends/python/`` the Python backend, its process for the running Python, and this package, because those
  processes look neither at ``PYTHONPATH`` nor at an editable install;
* ``backends/onnxruntime/`` the Python-based backend of this project;
* ``lib/`` the running Python's shared library, if it has one of its own.

The backend's library is copied, because Triton refuses one that a link leads out of its folder. The folder's name is a
hash of what it holds, so that it is laid out once and never goes stale.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ofa_serving
from ofa_serving.host import installed_version
from ofa_serving.launcher.errors import LaunchError

_LIBRARY = "backends/python/libtriton_python.so"
_STUB = "triton_python_backend_stub"
_PACKAGE = Path(ofa_serving.__file__).parent


@dataclass(frozen=True)
class Installation:
    """A Triton that can be started: its binary, its backends, and the environment both need."""

    binary: Path
    backends: Path
    environment: Mapping[str, str]

    @property
    def caches(self) -> Path:
        """Where its kinds of response cache lie."""
        return self.binary.parents[1] / "caches"


def prepare(run_folder: Path) -> Installation:
    """Lay the embedded server out under ``run_folder``.

    Raises:
        LaunchError: it is not installed, does not fit this Python or its NumPy, or the folder cannot be written.

    """
    wheel = _wheel()
    _check_numpy()
    links = _links(wheel)
    folder = run_folder / _digest(links)
    if not folder.is_dir():
        _lay_out(links, folder)
    return Installation(
        binary=wheel / "tritonserver/bin/tritonserver",
        backends=folder / "backends",
        environment=_environment(folder, wheel.parent / "nvidia_pytriton.libs"),
    )


def _wheel() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise LaunchError("the embedded Triton is not installed: pip install 'ofa-triton[serving,embedded]'")
    return Path(spec.submodule_search_locations[0])


def _check_numpy() -> None:
    version = installed_version("numpy")
    if version is None or int(version.split(".")[0]) >= 2:
        raise LaunchError(f"with numpy {version} Triton's Python models return zeros: pip install 'numpy<2'")


def _links(wheel: Path) -> dict[str, Path]:
    """Return what the laid-out folder holds: a path in it for each file or folder linked to."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = wheel / "tritonserver/python_backend_stubs" / python / _STUB
    if not stub.is_file():
        known = sorted(path.name for path in stub.parent.parent.iterdir())
        raise LaunchError(f"the embedded Triton runs models with Python {', '.join(known)}, this is {python}")
    links = {
        _LIBRARY: wheel / "tritonserver/backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py": wheel
        / "tritonserver/backends/python/triton_python_backend_utils.py",
        f"backends/python/{_STUB}": stub,
        f"backends/python/{_PACKAGE.name}": _PACKAGE,
        "backends/onnxruntime": _backend("onnxruntime"),
    }
    library = _python_library(python)
    if library is not None:
        links[f"lib/{library.name}"] = library
    return links


def _backend(name: str) -> Path:
    """Find a backend of this project: inside the installed package, or beside it in a checkout."""
    for folder in (_PACKAGE / "backends" / name, _PACKAGE.parents[1] / "backends" / name):
        if (folder / "model.py").is_file():
            return folder
    raise LaunchError(f"the {name} backend is missing from this installation: install the project again")


def _python_library(python: str) -> Path | None:
    """Return this Python's own shared library; None if the system's loader finds one of the same version."""
    own = Path(sysconfig.get_config_var("LIBDIR") or "/") / f"libpython{python}.so.1.0"
    if own.is_file():
        return own
    if ctypes.util.find_library(f"python{python}") is None:
        raise LaunchError(f"the embedded Triton needs libpython{python}.so.1.0: apt install libpython{python}")
    return None


def _digest(links: Mapping[str, Path]) -> str:
    lines = [f"{name} {target}" for name, target in sorted(links.items())]
    lines.append(str(links[_LIBRARY].stat().st_mtime_ns))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _lay_out(links: Mapping[str, Path], folder: Path) -> None:
    """Make the links in a new folder, and put that in place whole, so that launchers can run side by side."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent))
        for name, target in links.items():
            link = partial / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if name == _LIBRARY:
                shutil.copyfile(target, link)
            else:
                link.symlink_to(target)
    except OSError as error:
        raise LaunchError(
            f"cannot write {folder.parent} ({error.strerror}); choose another place with --run-folder"
        ) from error
    try:
        partial.rename(folder)
    except OSError:  # another launcher was first; both laid out the same
        shutil.rmtree(partial)


def _environment(folder: Path, libraries: Path) -> dict[str, str]:
    """Return this process's environment, changed so that the server finds its libraries and this Python.

    A model's process asks ``PATH`` for ``python3``, and takes the packages of the environment that one belongs to.
    """
    search = [str(folder / "lib"), str(libraries), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(filter(None, search)),
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
    }
