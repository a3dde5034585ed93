"""Kubernetes' HorizontalPodAutoscaler (autoscaling/v2) for metrics of type ``Pods``, as its documentation defines it.

It reads the very object that the chart renders, so what is replayed is what would be installed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SYNC_SECONDS = 15
TOLERANCE = 0.1
"""The controller's defaults."""

PodValues = Mapping[str, float]
"""A metric's value by pod; a pod without one is missing."""


@dataclass
class Autoscaler:
    """One object and what it remembers.

    Attributes:
        spec: the object's ``spec``.
        replicas: how many it wants at present.
    """

    spec: Mapping[str, Any]
    replicas: int
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _changes: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def targets(self) -> dict[str, float]:
        """Each metric's target a pod."""
        pods = [metric["pods"] for metric in self.spec["metrics"]]
        return {pod["metric"]["name"]: float(pod["target"]["averageValue"]) for pod in pods}

    def sync(self, now: float, values: Mapping[str, PodValues], ready: Sequence[str]) -> int:
        """One round of the controller.

        Args:
            now: seconds.
            values: of each metric.
            ready: the pods that take requests; the others up to ``replicas`` still start.
        """
        wanted = max(self.recommend(values[name], target, ready) for name, target in self.targets.items())
        wanted = min(max(wanted, self.spec["minReplicas"]), self.spec["maxReplicas"])
        self._wanted.append((now, wanted))
        change = self._limited(now, wanted) - self.replicas
        if change:
            self._changes.append((now, change))
            self.replicas += change
        return self.replicas

    def recommend(self, values: PodValues, target: float, ready: Sequence[str]) -> int:
        """How many pods bring a metric to its target, the rules on behaviour left out."""
        known = [values[pod] for pod in ready if pod in values]
        if not known:
            return self.replicas
        ratio = sum(known) / len(known) / target
        starting, missing = max(self.replicas - len(ready), 0), len(ready) - len(known)
        counted = len(known)
        if (missing and ratio < 1) or (missing + starting and ratio > 1):
            # What does not answer is taken for idle when scaling up, and for busy when scaling down.
            counted += missing + (starting if ratio > 1 else 0)
            unknown = missing * target if ratio < 1 else 0
            adjusted = (sum(known) + unknown) / counted / target
            if (adjusted - 1) * (ratio - 1) <= 0:
                return self.replicas
            ratio = adjusted
        if abs(ratio - 1) <= TOLERANCE:
            return self.replicas
        wanted = math.ceil(round(ratio * counted, 9))
        against = (ratio < 1 and wanted > self.replicas) or (ratio > 1 and wanted < self.replicas)
        return self.replicas if against else wanted

    def _limited(self, now: float, wanted: int) -> int:
        behavior = self.spec["behavior"]
        if wanted > self.replicas:
            return min(wanted, self._bound(now, behavior["scaleUp"], 1))
        window = behavior["scaleDown"]["stabilizationWindowSeconds"]
        while self._wanted[0][0] < now - window:
            self._wanted.popleft()
        steady = min(max(count for _, count in self._wanted), self.replicas)
        return max(steady, self._bound(now, behavior["scaleDown"], -1))

    def _bound(self, now: float, rules: Mapping[str, Any], direction: int) -> int:
        """How far the policies let it go; of several the one that lets it go farthest."""
        bounds = []
        for policy in rules["policies"]:
            recent = [
                change
                for moment, change in self._changes
                if moment > now - policy["periodSeconds"] and change * direction > 0
            ]
            begin = self.replicas - sum(recent)
            if policy["type"] == "Pods":
                bounds.append(begin + direction * policy["value"])
            elif direction > 0:
                bounds.append(math.ceil(begin * (1 + policy["value"] / 100)))
            else:
                bounds.append(int(begin * (1 - policy["value"] / 100)))
        return max(bounds) if direction > 0 else min(bounds)
