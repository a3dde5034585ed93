"""Every value set renders, as recorded, to manifests that Kubernetes and the custom resources' operators take."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import chart
import pytest
from chart import CASES, CHART, helm, render, render_text, values_of, yaml
from proxy_process import MISSING, NGINX

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs the extra 'deploy'")
jsonschema = pytest.importorskip("jsonschema", reason="needs the extra 'deploy'")

HERE = Path(__file__).parent
VERSIONS = ("1.33.0", "1.37.0")
CUSTOM = {path.stem: json.loads(path.read_text()) for path in (HERE / "schemas").glob("*.json")}
OF_THE_PREDICTOR_A_PODS = (
    "enableServiceLinks",
    "imagePullSecrets",
    "securityContext",
    "nodeSelector",
    "tolerations",
    "terminationGracePeriodSeconds",
)

BASELINE = {
    "CKV_K8S_43": "image digests are the operator's to set (image.digest); the chart cannot know them",
    "CKV_K8S_15": "an image that is pinned need not be pulled again: IfNotPresent",
}
"""What checkov may find, and why it stays."""

KEYS = {"proxy": {"keysSecret": "captions-keys", "trustedProxies": ["10.0.0.0/8", "fd00::/8"]}}

each_case = pytest.mark.parametrize("case", CASES)


def test_helms_own_lint_has_no_warning():
    report = helm.lint(str(CHART))
    messages = [message["error"] for message in report["messages"]]
    assert (report["errors"], messages) == ([], ["icon is recommended"])


@each_case
def test_the_render_is_the_recorded_one(case):
    """``UPDATE_GOLDEN=1`` records anew; the difference is for a person to read."""
    golden, text = HERE / "golden" / f"{case}.yaml", render_text(values_of(case))
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@each_case
@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid_in_strict_mode(case, version):
    for (kind, _), document in render(values_of(case)).items():
        if kind.lower() in CUSTOM:
            jsonschema.validate(document["spec"], CUSTOM[kind.lower()])
        known = pod_of(document) if kind.lower() in CUSTOM else document
        if known is not None:
            kubernetes_validate.validate(known, version, strict=True)


def pod_of(document):
    """What of a KServe resource is a pod's, as a pod; None of the other custom ones."""
    if document["kind"] == "ServingRuntime":
        specification = {key: document["spec"][key] for key in ("containers", "volumes")}
    elif document["kind"] == "InferenceService":
        predictor = document["spec"]["predictor"]
        specification = {key: predictor[key] for key in OF_THE_PREDICTOR_A_PODS if key in predictor}
        specification["containers"] = [{"name": "kserve-container"}]
    else:
        return None
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "of"}, "spec": specification}


def test_strict_mode_refuses_a_field_that_does_not_exist():
    (document,) = [value for (kind, _), value in render({}).items() if kind == "HorizontalPodAutoscaler"]
    document["spec"]["minimumReplicas"] = 2
    with pytest.raises(kubernetes_validate.ValidationError, match="minimumReplicas"):
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"profil": "gpu"}, "profil"),
        ({"profile": "tpu"}, "profile"),
        ({"models": []}, "models"),
        ({"models": ["../etc"]}, "models"),
        ({"sharedMemory": {"sizeMiB": "1Gi"}}, "sizeMiB"),
        ({"modelVolume": {"kind": "s3"}}, "uri"),
        ({"modelVolume": {"kind": "image"}}, "reference"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"timing": {"preStop": 0}}, "preStop"),
        ({"proxy": {"tls": {"clientCASecret": "ca"}}}, "secretName"),
        ({"proxy": {"trustedProxies": ["anybody; }"]}}, "trustedProxies"),
        ({"proxy": {"maxBodySize": "0"}}, "maxBodySize"),  # to nginx no limit at all
        ({"strategy": {"maxSurge": "1"}}, "maxSurge"),
        ({"strategy": {"maxSurge": -1}}, "maxSurge"),
        ({"strategy": {"maxSurge": "0%", "maxUnavailable": 0}}, "maxSurge and strategy.maxUnavailable are both 0"),
        ({"disruptionBudget": {"maxUnavailable": "one"}}, "maxUnavailable"),
        ({"autoscaling": {"minReplicas": 11}}, "minReplicas, 11, is more than autoscaling.maxReplicas, 10"),
        ({"autoscaling": {"queueComputeRatio": "0.0"}}, "queueComputeRatio"),
    ],
)
def test_the_schema_refuses_values_that_make_no_sense(values, named):
    with pytest.raises(helm.HelmError, match=named):
        render(values)


@pytest.mark.parametrize(
    "path",
    [
        "replicas",
        "timing.stop",
        "tracing",
        "modelVolume.pvc.claimName",
        "autoscaling.kind",
        "proxy.tls",
        "proxy.tls.secretName",
        "proxy.keysSecret",
        "proxy.canary",
        "proxy.perCaller.concurrent",
        "networkPolicy",
        "monitoring.latencySeconds",
        "disruptionBudget.maxUnavailable",
    ],
)
def test_a_value_that_is_taken_away_is_named(path):
    """``--set proxy.tls.secretName=null`` would otherwise have nginx look for a certificate that nobody mounts."""
    values = None
    for key in reversed(path.split(".")):
        values = {key: values}
    with pytest.raises(helm.HelmError, match=f"missing property '{path.rpartition('.')[2]}'"):
        render(values)


@pytest.mark.parametrize(("name", "taken"), [("c" * 50, True), ("c" * 51, False), ("2nd", False), ("a.b", False)])
def test_a_releases_name_is_one_that_services_and_pods_can_have(monkeypatch, name, taken):
    """Kubernetes cuts a pod's name to 58 characters before it adds five, and with them what queries know it by."""
    monkeypatch.setattr(chart, "RELEASE", name)
    if taken:
        deployments = [key[1] for key in render({}) if key[0] == "Deployment"]
        assert all(len(f"{deployment}-") <= 58 for deployment in deployments)
    else:
        with pytest.raises(helm.HelmError, match=f"the release's name, {name}, is not one of at most 50"):
            render({})


def test_bounds_of_an_autoscaler_that_is_off_are_nobodys_business():
    assert render({"autoscaling": {"enabled": False, "minReplicas": 2, "maxReplicas": 1}})


def test_large_numbers_are_written_out():
    """Helm's are floats, of which a million is 1e+06."""
    million = 10**6
    limits = dict.fromkeys(("requestsPerSecond", "concurrent", "concurrentLarge"), million)
    proxy = {"perCaller": limits, "callsPerServer": million, "canary": {"release": "captions-next"}}
    rest = {"timing": {"start": million}, "tracing": {"url": "http://collector:4318", "every": million}}
    assert "e+" not in render_text({"proxy": proxy, **rest})


@each_case
def test_checkov_finds_no_more_than_the_baseline(case, tmp_path):
    checkov = shutil.which("checkov", path=f"{CHART.parents[2] / '.venv-checkov/bin'}:{os.environ['PATH']}")
    if checkov is None:
        pytest.skip("needs checkov, in an environment of its own: make check-deploy")
    (tmp_path / "all.yaml").write_text(render_text(values_of(case)))
    command = [checkov, "--file", "all.yaml", "--framework", "kubernetes", "--output", "json", "--skip-download"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    report = json.loads(result.stdout)
    failed = report["results"]["failed_checks"] if "results" in report else []  # KServe's kinds are unknown to it
    assert {check["check_id"] for check in failed} <= set(BASELINE)


@pytest.mark.parametrize("values", [*map(values_of, ("defaults", "image-tls-canary")), KEYS], ids=repr)
def test_nginx_takes_the_proxys_configuration(values, tmp_path):
    """Debian's nginx is older than the ``resolve`` of an upstream's server, which is taken out for it."""
    if NGINX is None:
        pytest.skip(MISSING)
    files = render(values)["ConfigMap", "captions-proxy"]["data"]
    (tmp_path / "site").mkdir()
    for name, text in files.items():
        here = re.sub(r"server \S+:(\d+) resolve ", r"server 127.0.0.1:\1 ", text)
        here = re.sub(r"resolver \S+ ", "resolver 127.0.0.1 ", here).replace("/tmp/", f"{tmp_path}/")
        (tmp_path / name if name == "nginx.conf" else tmp_path / "site" / name).write_text(here)
    make_certificate(tmp_path / "site")
    if "keys.conf" not in files:
        (tmp_path / "site/keys.conf").write_text('"a key" name;')
    result = subprocess.run(
        [NGINX, "-t", "-q", "-e", "stderr", "-c", tmp_path / "nginx.conf"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")


def make_certificate(folder):
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=captions"]
    files = ["-keyout", folder / "server.key", "-out", folder / "server.crt"]
    subprocess.run([*command, *files], check=True, capture_output=True, timeout=60)
    shutil.copy(folder / "server.crt", folder / "ca.crt")


def test_every_value_set_is_valid_yaml_with_a_purpose():
    assert {"defaults", "gpu-s3-keda", "image-tls-canary", "canary-release", "kserve"} <= set(CASES)
    assert yaml.safe_load((CHART / "files/prometheus-adapter-values.yaml").read_text())["rules"]["custom"]
