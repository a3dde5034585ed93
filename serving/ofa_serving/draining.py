"""How a server stops without losing a request: what the launcher and the public model agree on.

A Triton that has been told to end refuses the calls the public model still has to make to its stages. So it is told
only when nothing is in flight any more: the launcher (or a container's preStop hook) creates a file, the public model
then refuses new requests, and the launcher waits until the gauge of those in flight is zero.
"""

from __future__ import annotations

DRAIN_VARIABLE = "OFA_DRAIN_FILE"
"""Environment variable with the file's path. The models' processes inherit it; without it nothing is ever drained."""

IN_FLIGHT_METRIC = "ofa_requests_in_flight"
"""The gauge on Triton's metrics endpoint, one a public model."""
