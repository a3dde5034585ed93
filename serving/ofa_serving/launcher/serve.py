"""The launch: everything that can be checked before a server starts, then the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ofa_serving.launcher.artifact import Artifact, load_artifact
from ofa_serving.launcher.embedded import prepare
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.native import find
from ofa_serving.launcher.ports import claim_ports
from ofa_serving.launcher.settings import Settings
from ofa_serving.launcher.shared_memory import check_room, sweep
from ofa_serving.launcher.supervisor import Supervisor


def serve(settings: Settings) -> None:
    """Check, start, and supervise until a signal comes.

    Raises:
        LaunchError: a check failed, or the server did.

    """
    if not settings.triton:
        _check_paths({"--artifacts": settings.artifacts, "--run-folder": settings.run_folder})
    artifacts = [load_artifact(settings.artifacts, name) for name in settings.names]
    _check_distinct(artifacts)
    installation = find(settings.triton) if settings.triton else prepare(settings.run_folder)
    sweep()
    check_room([memory for artifact in artifacts for memory in artifact.memory()])
    ports = claim_ports(settings.host, settings.ports)
    Supervisor(settings, artifacts, installation, ports).run()


def _check_paths(folders: Mapping[str, Path]) -> None:
    """Triton 24.10 starts a Python model by a shell's command in which no path is quoted, and waits for it for ever."""
    for flag, folder in folders.items():
        if any(character.isspace() for character in str(folder)):
            raise LaunchError(f"the embedded Triton cannot serve from a path with spaces, '{folder}': choose {flag}")


def _check_distinct(artifacts: Sequence[Artifact]) -> None:
    owners: dict[str, str] = {}
    for artifact in artifacts:
        for model in artifact.models:
            if model.name in owners:
                raise LaunchError(f"{owners[model.name]} and {artifact.name} both have a model '{model.name}'")
            owners[model.name] = artifact.name
