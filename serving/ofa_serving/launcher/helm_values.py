"""``ofa-helm-values``: what a built checkpoint decides of the Helm chart's values, as JSON, which Helm reads as YAML.

The chart's shared memory comes from the computation that the launcher checks at start; what its proxy lets through, and
what its autoscaler takes for full, from the images that the models admit. An annotation of the pods names the build, so
that another one replaces them. It need not run where the models will: a GPU's values can be had without one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sys
from collections.abc import Sequence
from typing import Any

from ofa_serving.launcher.artifact import Artifact, load_artifact
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.settings import parse_settings
from ofa_serving.launcher.shared_memory import required_bytes

_MEBIBYTE, _GIBIBYTE = 2**20, 2**30

_CALLS = 3 / 2
"""Calls let through for each image that is admitted: the server refuses the others itself, and counts them."""

_BUSY = 3 / 16
"""Of the images that a server admits, those at which more servers are wanted."""

_MEMORY = {"cpu": 6, "gpu": 16}
"""GiB that the chart gives a server of each profile; at most half of it may be shared memory."""

logger = logging.getLogger("ofa-helm-values")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the values for the checkpoints that ``ofa-serve`` would serve with the same flags.

    Returns:
        the exit code: 1 with one line of log if one of them is missing or damaged.

    """
    purpose = "Print the chart's values for the checkpoints that ofa-serve would serve with the same flags."
    settings = parse_settings(arguments, program="ofa-helm-values", purpose=purpose)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        artifacts = [load_artifact(settings.artifacts, name, runs_here=False) for name in settings.names]
    except LaunchError as error:
        logger.error("%s", error)
        return 1
    sys.stdout.write(json.dumps(helm_values(artifacts), indent=2) + "\n")
    return 0


def helm_values(artifacts: Sequence[Artifact]) -> dict[str, Any]:
    """Return the chart's values for a server of ``artifacts``; sizes in MiB, rounded up."""
    required = required_bytes(memory for artifact in artifacts for memory in artifact.memory())
    profile = "gpu" if any(artifact.needs_gpu for artifact in artifacts) else "cpu"
    builds = "".join(artifact.digest for artifact in artifacts)
    values: dict[str, Any] = {
        "models": [artifact.name for artifact in artifacts],
        "profile": profile,
        "podAnnotations": {"checksum/models": hashlib.sha256(builds.encode()).hexdigest()},
        "sharedMemory": {"sizeMiB": -(-required // _MEBIBYTE)},
    }
    memory = -(-2 * required // _GIBIBYTE)
    if memory > _MEMORY[profile]:
        values["resources"] = {profile: {kind: {"memory": f"{memory}Gi"} for kind in ("requests", "limits")}}
    if all(artifact.max_in_flight for artifact in artifacts):
        admitted = sum(artifact.max_in_flight for artifact in artifacts)
        values["proxy"] = {"callsPerServer": math.ceil(admitted * _CALLS)}
        values["autoscaling"] = {"imagesInFlight": math.ceil(admitted * _BUSY)}
    return values
