"""What the chart promises: nothing lost at a stop, nobody let in, sizes that fit, the models read-only."""

import re
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from chart import CASES, CHART, pod, render, values_of, yaml
from google.protobuf import text_format
from ofa_serving.launcher.artifact import Artifact
from ofa_serving.launcher.helm_values import helm_values
from ofa_serving.launcher.restarts import LONGEST_DELAY
from ofa_serving.launcher.settings import parse_settings
from ofa_serving.launcher.shared_memory import required_bytes
from ofa_serving.manifest import Manifest
from proxy_process import MISSING, NGINX, ProxyProcess
from tritonclient.grpc.model_config_pb2 import ModelConfig

ROOT = Path(__file__).parents[2]
PROXY = ROOT / "deploy/proxy"
DEPLOYMENTS = [case for case in CASES if case != "kserve"]
KILLED_AFTER_STOP = 10
SPARE = 5
PROBED_WITHIN = 14
REMEMBERED_BY_DNS, REMEMBERED_BY_NGINX = 30, 5
PROXIES = {
    "podSelector": {
        "matchLabels": {"app.kubernetes.io/name": "ofa-caption", "app.kubernetes.io/component": "proxy"},
    }
}
UNITS = {"Mi": 1, "Gi": 2**10}

each_deployment = pytest.mark.parametrize("case", DEPLOYMENTS)


@pytest.fixture(scope="module")
def defaults():
    return render({})


def server(documents):
    return pod(documents, "server")["containers"][0]


def environment(container):
    return {variable["name"]: variable["value"] for variable in container["env"]}


def mebibytes(quantity):
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()
    return int(number) * UNITS[unit]


def default_artifact(device="cpu", max_in_flight=None):
    """The recorded repository as a built checkpoint; ``max_in_flight`` instead of its own."""
    models = []
    for path in sorted((ROOT / "model_repository").glob("*/config.pbtxt")):
        models.append(text_format.Parse(path.read_text(), ModelConfig()))
        if path.parent.name == "ofa_caption" and max_in_flight is not None:
            models[-1].parameters["max_in_flight"].string_value = str(max_in_flight)
    manifest = Manifest.__new__(Manifest)
    object.__setattr__(manifest, "name", "ofa_caption")
    object.__setattr__(manifest, "device", device)
    return Artifact(ROOT, manifest, tuple(models))


def test_shared_memory_is_what_the_launcher_asks_for_of_the_default_models():
    needed = required_bytes(default_artifact().memory())
    size = yaml.safe_load((CHART / "values.yaml").read_text())["sharedMemory"]["sizeMiB"]
    assert size == -(-needed // 2**20)


def test_the_charts_own_values_are_those_of_the_default_model():
    chart = yaml.safe_load((CHART / "values.yaml").read_text())
    for name, value in helm_values([default_artifact()]).items():
        assert chart[name] == value or value.items() <= chart[name].items(), name


def test_the_proxy_and_the_autoscaler_go_by_the_images_that_a_server_admits():
    values = helm_values([default_artifact("gpu", 256)])
    assert (values["proxy"], values["autoscaling"]) == ({"callsPerServer": 384}, {"imagesInFlight": 48})
    documents = render(values)
    assert documents["ConfigMap", "captions-proxy"]["data"]["upstreams.conf"].count("max_conns=384 ") == 2
    targets = documents["HorizontalPodAutoscaler", "captions-server"]["spec"]["metrics"]
    assert [metric["pods"]["target"]["averageValue"] for metric in targets] == ["3", "48", "0.5"]
    twice = helm_values([default_artifact(), default_artifact()])
    assert twice["proxy"] == {"callsPerServer": 192}


def test_models_that_leave_their_calls_to_triton_leave_the_charts_values():
    assert not {"proxy", "autoscaling"} & helm_values([default_artifact(max_in_flight=0)]).keys()


@each_deployment
def test_shared_memory_is_a_memory_volume_within_the_memory_limit(case):
    documents = render(values_of(case))
    volume = next(volume for volume in pod(documents, "server")["volumes"] if volume["name"] == "shared-memory")
    assert volume["emptyDir"]["medium"] == "Memory"
    limit = mebibytes(server(documents)["resources"]["limits"]["memory"])
    assert mebibytes(volume["emptyDir"]["sizeLimit"]) <= limit / 2
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in server(documents)["volumeMounts"]


@each_deployment
def test_the_grace_period_covers_the_pause_the_drain_and_the_kill(case):
    documents = render(values_of(case))
    pause = server(documents)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = int(environment(server(documents))["OFA_STOP_TIMEOUT"])
    assert pod(documents, "server")["terminationGracePeriodSeconds"] == pause + drain + KILLED_AFTER_STOP + SPARE
    assert pause >= REMEMBERED_BY_DNS + REMEMBERED_BY_NGINX


@each_deployment
def test_a_real_caption_decides_over_start_and_life_and_a_cheap_question_over_traffic(case):
    container = server(render(values_of(case)))
    assert container["startupProbe"]["exec"] == container["livenessProbe"]["exec"] == {"command": ["ofa-probe"]}
    assert container["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": "http"}
    for name in ("startupProbe", "livenessProbe"):
        assert container[name]["timeoutSeconds"] >= PROBED_WITHIN + SPARE
    start = int(environment(container)["OFA_START_TIMEOUT"])
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= start


@pytest.mark.parametrize("start", [10, 600, 601])
def test_a_triton_that_the_launcher_starts_again_is_given_the_time(start):
    life = server(render({"timing": {"start": start}}))["livenessProbe"]
    given = life["periodSeconds"] * life["failureThreshold"]
    assert start + LONGEST_DELAY <= given < start + LONGEST_DELAY + life["periodSeconds"]


def test_the_launcher_reads_the_variables_that_the_chart_sets(defaults):
    settings = parse_settings([], environment(server(defaults)))
    assert settings.names == ("ofa_caption",)
    assert (settings.start_timeout, settings.stop_timeout) == (600, 30)


def test_the_log_is_for_machines_and_the_launcher_reads_where_traces_go(defaults):
    logged = parse_settings([], environment(server(defaults)))
    assert (logged.log_format, logged.request_log, logged.trace_url) == ("json", "all", "")
    traced = render(values_of("gpu-s3-keda"))
    settings = parse_settings([], environment(server(traced)))
    assert (settings.trace_url, settings.trace_every) == ("http://collector.monitoring:4318/v1/traces", 100)
    egress = traced["NetworkPolicy", "captions-server"]["spec"]["egress"]
    (collector,) = [rule for rule in egress if "namespaceSelector" in rule.get("to", [{}])[0]]
    assert collector["to"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}


@each_deployment
def test_every_container_is_confined(case):
    documents = render(values_of(case))
    for (kind, name), document in documents.items():
        if kind != "Deployment":
            continue
        specification = document["spec"]["template"]["spec"]
        assert specification["automountServiceAccountToken"] is False, name
        assert specification["enableServiceLinks"] is False, name
        assert specification["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*specification["containers"], *specification.get("initContainers", [])]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and security["runAsNonRoot"]
            assert not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}


@each_deployment
def test_the_models_are_read_only(case):
    mounts = {mount["mountPath"]: mount for mount in server(render(values_of(case)))["volumeMounts"]}
    assert mounts["/models"]["readOnly"]


def test_models_come_from_a_claim_a_bucket_or_an_image():
    volumes = {
        case: next(volume for volume in pod(render(values_of(case)), "server")["volumes"] if volume["name"] == "models")
        for case in ("defaults", "gpu-s3-keda", "image-tls-canary")
    }
    assert volumes["defaults"]["persistentVolumeClaim"] == {"claimName": "ofa-models", "readOnly": True}
    assert volumes["gpu-s3-keda"]["emptyDir"] == {"sizeLimit": "8Gi"}
    assert volumes["image-tls-canary"]["image"]["reference"] == "registry.example.com/ofa-models:1"
    fetch = pod(render(values_of("gpu-s3-keda")), "server")["initContainers"][0]
    assert fetch["args"][-2:] == ["s3://models/captioning", "/models"]


def test_a_gpu_is_asked_for_by_the_gpu_profile_alone(defaults):
    gpu = server(render(values_of("gpu-s3-keda")))["resources"]
    assert gpu["requests"]["nvidia.com/gpu"] == gpu["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in server(defaults)["resources"]["limits"]


def test_nothing_is_let_in_or_out_but_what_is_named(defaults):
    policies = {name: document["spec"] for (kind, name), document in defaults.items() if kind == "NetworkPolicy"}
    assert policies["captions-deny"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policies["captions-deny"]
    captions, metrics = policies["captions-server"]["ingress"]
    assert [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in captions["from"]] == ["proxy"]
    assert [port["port"] for port in captions["ports"]] == ["http", "grpc"]
    assert metrics["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    assert [port["port"] for port in metrics["ports"]] == ["metrics"]


@pytest.mark.parametrize(
    ("endpoint", "ports"),
    [
        ("", [443]),
        ("https://storage.example.com", [443]),
        ("https://storage.example.com:443/", [443]),
        ("http://minio.storage.svc:9000", [443, 9000]),
        ("http://minio.storage.svc/9001", [443, 80]),
        ("http://[fd00::1]:9000", [443, 9000]),
        ("http://[fd00::1]", [443, 80]),
    ],
)
def test_a_server_reaches_the_bucket_wherever_it_is(endpoint, ports):
    documents = render({"modelVolume": {"kind": "s3", "s3": {"uri": "s3://models", "endpoint": endpoint}}})
    names, bucket = documents["NetworkPolicy", "captions-server"]["spec"]["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    assert [port["port"] for port in bucket["ports"]] == ports


def test_a_server_reaches_what_the_operator_names():
    agent = {"to": [{"ipBlock": {"cidr": "169.254.170.23/32"}}], "ports": [{"port": 80}]}
    policy = render({"networkPolicy": {"extraEgress": [agent]}})["NetworkPolicy", "captions-server"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert agent in policy["egress"]


def test_the_metrics_leave_the_cluster_through_no_service(defaults):
    public = defaults["Service", "captions"]["spec"]["ports"]
    assert {port["name"] for port in public} == {"http", "grpc"}
    assert defaults["Service", "captions-server"]["spec"]["clusterIP"] == "None"


def test_replicas_are_spread_and_evicted_one_at_a_time(defaults):
    keys = [constraint["topologyKey"] for constraint in pod(defaults, "server")["topologySpreadConstraints"]]
    assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert defaults["PodDisruptionBudget", "captions-server"]["spec"]["maxUnavailable"] == 1
    rolling = defaults["Deployment", "captions-server"]["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 1, "maxUnavailable": 0}


def test_an_autoscaled_deployment_does_not_fix_its_replicas(defaults):
    assert "replicas" not in defaults["Deployment", "captions-server"]["spec"]
    fixed = render(values_of("image-tls-canary"))
    assert fixed["Deployment", "captions-server"]["spec"]["replicas"] == 3
    assert ("HorizontalPodAutoscaler", "captions-server") not in fixed


def test_the_adapter_offers_what_the_autoscaler_reads(defaults):
    metrics = defaults["HorizontalPodAutoscaler", "captions-server"]["spec"]["metrics"]
    wanted = {metric["pods"]["metric"]["name"] for metric in metrics}
    rules = yaml.safe_load((CHART / "files/prometheus-adapter-values.yaml").read_text())["rules"]["custom"]
    assert {rule["name"]["as"] for rule in rules} == wanted


def test_the_proxy_balances_over_the_servers_that_the_headless_service_names(defaults):
    text = defaults["ConfigMap", "captions-proxy"]["data"]["upstreams.conf"]
    assert "server captions-server.vision.svc.cluster.local:8001 resolve" in text
    assert text.count("least_conn;") == 2


def test_a_canary_gets_its_share_and_both_sides_find_each_other():
    stable, canary = render(values_of("image-tls-canary")), render(values_of("canary-release"))
    text = stable["ConfigMap", "captions-proxy"]["data"]["upstreams.conf"]
    assert re.search(r"split_clients \$request_id \$track {\s+10% canary;\s+\* stable;\s+}", text)
    assert "server captions-next-server.vision.svc.cluster.local:8001 resolve" in text
    assert not any(kind == "ConfigMap" for kind, _ in canary)
    assert admitted(canary) == [PROXIES]


def test_clients_come_to_the_servers_only_where_there_is_no_proxy_and_they_may():
    shop = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}
    clients = {"clientNamespaces": ["shop"]}
    assert admitted(render({"networkPolicy": clients})) == [PROXIES]
    direct = render({"proxy": {"enabled": False}, "networkPolicy": clients})
    assert admitted(direct) == [PROXIES, {"podSelector": {}}, shop]


def admitted(documents):
    """Who may ask the servers for captions."""
    return documents["NetworkPolicy", "captions-server"]["spec"]["ingress"][0]["from"]


@pytest.mark.skipif(NGINX is None, reason=MISSING)
def test_a_broken_canary_leaves_the_proxy_ready(tmp_path):
    values = {"proxy": {"canary": {"release": "captions-next", "percent": 99}}}
    upstreams = render(values)["ConfigMap", "captions-proxy"]["data"]["upstreams.conf"]
    with ThreadingHTTPServer(("127.0.0.1", 0), ReadyHandler) as stable:
        threading.Thread(target=stable.serve_forever, daemon=True).start()
        for release, port in (("captions", stable.server_port), ("captions-next", 1)):
            upstreams = re.sub(rf"server {release}-server\.\S+ resolve", f"server 127.0.0.1:{port}", upstreams)
        proxy = ProxyProcess(tmp_path / "proxy", [])
        (proxy.site / "upstreams.conf").write_text(re.sub(r"resolver \S+ ", "resolver 127.0.0.1 ", upstreams))
        with proxy:
            for _ in range(10):
                assert urllib.request.urlopen(f"{proxy.health_url}/ready", timeout=5).status == 200
        stable.shutdown()


class ReadyHandler(BaseHTTPRequestHandler):
    """A server that is ready."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Keep still."""


@each_deployment
def test_the_proxys_configuration_is_the_one_that_the_fault_tests_run(case):
    documents = render(values_of(case))
    if ("ConfigMap", "captions-proxy") not in documents:
        pytest.skip("this value set has no proxy")
    files = documents["ConfigMap", "captions-proxy"]["data"]
    rendered = {"limits.conf", "upstreams.conf", "client_certificates.conf", "keys.conf"}
    site = PROXY / ("tls" if "certificates.conf" in files else "plain")
    assert files["nginx.conf"].strip() == (PROXY / "nginx.conf").read_text().strip()
    for name in files.keys() - rendered - {"nginx.conf"}:
        sources = [(folder / name).read_text().strip() for folder in (site, PROXY / "tls") if (folder / name).exists()]
        assert files[name].strip() in sources, name


def test_tls_and_mutual_tls_reach_both_protocols():
    documents = render(values_of("image-tls-canary"))
    files = documents["ConfigMap", "captions-proxy"]["data"]
    assert "listen 8080 ssl;" in files["listen_http.conf"]
    assert "listen 8081 ssl http2;" in files["listen_grpc.conf"]
    assert "ssl_verify_client on;" in files["client_certificates.conf"]
    assert secrets_of(documents) == {"captions-tls", "captions-client-ca"}


def test_keys_let_nobody_in_without_a_name():
    values = {"proxy": {"keysSecret": "captions-keys", "tls": {"secretName": "tls", "clientCASecret": "ca"}}}
    documents = render(values)
    files = documents["ConfigMap", "captions-proxy"]["data"]
    assert "include site/keys.conf;" in files["callers.conf"]
    assert "keys.conf" not in files
    assert "ssl_verify_client optional;" in files["client_certificates.conf"]
    assert secrets_of(documents) == {"captions-keys", "tls", "ca"}


def test_the_proxys_deployment_can_name_the_secrets_that_start_it_anew():
    documents = render(values_of("image-tls-canary"))
    (names,) = documents["Deployment", "captions-proxy"]["metadata"]["annotations"].values()
    assert set(names.split(",")) == secrets_of(documents)


def secrets_of(documents):
    """The secrets that lie in the proxy's folder of files of the site."""
    site = next(volume for volume in pod(documents, "proxy")["volumes"] if volume["name"] == "site")
    return {source["secret"]["name"] for source in site["projected"]["sources"] if "secret" in source}


def test_kserve_gets_the_same_server_with_the_same_probes(defaults):
    documents = render(values_of("kserve"))
    container = documents["ServingRuntime", "captions"]["spec"]["containers"][0]
    assert container["livenessProbe"] == server(defaults)["livenessProbe"]
    assert environment(container)["OFA_ARTIFACTS"] == "/mnt/models"
    predictor = documents["InferenceService", "captions"]["spec"]["predictor"]
    assert predictor["model"]["runtime"] == "captions"
    assert predictor["terminationGracePeriodSeconds"] == pod(defaults, "server")["terminationGracePeriodSeconds"]
