"""The autoscaling that the chart installs, rendered by Helm as an installation renders it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).parents[2] / "deploy/helm/ofa-caption"


def autoscaler_spec(values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The ``spec`` of the HorizontalPodAutoscaler for a set of the chart's values; the defaults without one."""
    with helm_python.Chart.load(str(CHART)) as chart:
        templates = chart.render(dict(values or {}), name="captions", namespace="vision")
    documents = (document for text in templates.values() for document in _documents(text))
    return next(document["spec"] for document in documents if document["kind"] == "HorizontalPodAutoscaler")


def adapter_query(metric: str, pods: str = ".+") -> str:
    """What prometheus-adapter asks Prometheus for a metric of the autoscaler, by pod."""
    rules = yaml.safe_load((CHART / "files/prometheus-adapter-values.yaml").read_text())["rules"]["custom"]
    rule = next(rule for rule in rules if rule["name"]["as"] == metric)
    query = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
    return query.replace("<<.LabelMatchers>>", f'namespace="vision",pod=~"{pods}"').replace("<<.GroupBy>>", "pod")


def _documents(text: str) -> list[dict[str, Any]]:
    try:
        return [document for document in yaml.safe_load_all(text) if isinstance(document, dict) and "kind" in document]
    except yaml.YAMLError:  # the notes for people
        return []
