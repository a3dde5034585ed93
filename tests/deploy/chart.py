"""Renders the chart as Helm does, without a cluster."""

import re
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml", reason="needs the extra 'deploy'")
helm = pytest.importorskip("helm_python", reason="needs the extra 'deploy'")

CHART = Path(__file__).parents[2] / "deploy/helm/ofa-caption"
CASES = sorted(path.stem for path in (CHART / "ci").glob("*.yaml"))
RELEASE, NAMESPACE = "captions", "vision"
UNITS = {"Mi": 1, "Gi": 2**10}

each_deployment = pytest.mark.parametrize("case", [case for case in CASES if case != "kserve"])


def values_of(case):
    """One of the value sets in the chart's ci folder."""
    return yaml.safe_load((CHART / f"ci/{case}.yaml").read_text()) or {}


def render(values):
    """Every document, by kind and name; raises Helm's error for values that the schema refuses."""
    with helm.Chart.load(str(CHART)) as chart:
        templates = chart.render(values, name=RELEASE, namespace=NAMESPACE)
    documents = [
        document
        for path, text in sorted(templates.items())
        if not path.endswith("NOTES.txt")
        for document in yaml.safe_load_all(text)
        if document
    ]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def render_text(values):
    """The same as one YAML text, in the order of kinds and names."""
    documents = render(values)
    return yaml.safe_dump_all([documents[key] for key in sorted(documents)], sort_keys=True, width=120)


def pod(documents, component):
    """The pod's specification of the deployment of a component."""
    return documents["Deployment", f"{RELEASE}-{component}"]["spec"]["template"]["spec"]


def mebibytes(quantity):
    """A quantity of memory as Kubernetes writes it."""
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()
    return int(number) * UNITS[unit]
