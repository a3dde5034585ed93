"""What the chart promises: nothing lost at a stop, nobody let in, sizes that fit, the models read-only."""

import shutil
from pathlib import Path

import chart as chart_module
import pytest
from chart import CHART, each_deployment, helm, mebibytes, pod, render, values_of, yaml
from google.protobuf import text_format
from ofa_serving.launcher import helm_values as helm_values_module
from ofa_serving.launcher.artifact import Artifact
from ofa_serving.launcher.helm_values import helm_values
from ofa_serving.launcher.restarts import LONGEST_DELAY
from ofa_serving.launcher.settings import parse_settings
from ofa_serving.launcher.shared_memory import required_bytes
from ofa_serving.manifest import FILE_NAME, Manifest
from tritonclient.grpc.model_config_pb2 import ModelConfig

ROOT = Path(__file__).parents[2]
KILLED_AFTER_STOP = 10
SPARE = 5
PROBED_WITHIN = 14
FILES_ARE_READ = 60
REMEMBERED_BY_DNS, REMEMBERED_BY_NGINX = 30, 5


def server(documents):
    return pod(documents, "server")["containers"][0]


def environment(container):
    return {variable["name"]: variable["value"] for variable in container["env"]}


@pytest.fixture
def default_artifact(tmp_path):
    """A function that gives the recorded repository as a built checkpoint; ``max_in_flight`` instead of its own."""

    def build(device="cpu", max_in_flight=None, content="a manifest"):
        models = []
        for path in sorted((ROOT / "model_repository").glob("*/config.pbtxt")):
            models.append(text_format.Parse(path.read_text(), ModelConfig()))
            if path.parent.name == "ofa_caption" and max_in_flight is not None:
                models[-1].parameters["max_in_flight"].string_value = str(max_in_flight)
        manifest = Manifest.__new__(Manifest)
        object.__setattr__(manifest, "name", "ofa_caption")
        object.__setattr__(manifest, "device", device)
        (tmp_path / FILE_NAME).write_text(content)
        return Artifact(tmp_path, manifest, tuple(models))

    return build


def test_shared_memory_is_what_the_launcher_asks_for_of_the_default_models(default_artifact):
    needed = required_bytes(default_artifact().memory())
    size = yaml.safe_load((CHART / "values.yaml").read_text())["sharedMemory"]["sizeMiB"]
    assert size == -(-needed // 2**20)


def test_the_charts_own_values_are_those_of_the_default_model(default_artifact):
    chart = yaml.safe_load((CHART / "values.yaml").read_text())
    values = helm_values([default_artifact()])
    assert values.pop("podAnnotations").keys() == {"checksum/models"}
    for name, value in values.items():
        assert chart[name] == value or value.items() <= chart[name].items(), name


@pytest.mark.parametrize("mode", ["deployment", "kserve"])
def test_another_build_of_the_model_is_rolled_out(default_artifact, mode):
    def pods(manifest):
        values = helm_values([default_artifact(content=manifest)])
        documents = render({**values, "mode": mode, "podAnnotations": {**values["podAnnotations"], "mine": "too"}})
        key = ("Deployment", "captions-server") if mode == "deployment" else ("ServingRuntime", "captions")
        specification = documents[key]["spec"]
        return specification["template"] if mode == "deployment" else specification

    assert pods("one") == pods("one") != pods("another")


def test_the_proxy_and_the_autoscaler_go_by_the_images_that_a_server_admits(default_artifact):
    values = helm_values([default_artifact("gpu", 256)])
    assert (values["proxy"], values["autoscaling"]) == ({"callsPerServer": 384}, {"imagesInFlight": 48})
    documents = render(values)
    assert documents["ConfigMap", "captions-proxy"]["data"]["upstreams.conf"].count("max_conns=384 ") == 2
    targets = documents["HorizontalPodAutoscaler", "captions-server"]["spec"]["metrics"]
    assert [metric["pods"]["target"]["averageValue"] for metric in targets] == ["3", "48", "0.5"]
    twice = helm_values([default_artifact(), default_artifact()])
    assert twice["proxy"] == {"callsPerServer": 192}


def test_models_that_leave_their_calls_to_triton_leave_the_charts_values(default_artifact):
    assert not {"proxy", "autoscaling"} & helm_values([default_artifact(max_in_flight=0)]).keys()


@each_deployment
def test_shared_memory_is_a_memory_volume_within_the_memory_limit(case):
    documents = render(values_of(case))
    volume = next(volume for volume in pod(documents, "server")["volumes"] if volume["name"] == "shared-memory")
    assert volume["emptyDir"]["medium"] == "Memory"
    limit = mebibytes(server(documents)["resources"]["limits"]["memory"])
    assert mebibytes(volume["emptyDir"]["sizeLimit"]) <= limit / 2
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in server(documents)["volumeMounts"]


@pytest.mark.parametrize("mode", ["deployment", "kserve"])
@pytest.mark.parametrize(
    ("shared", "cache", "limit", "fits"),
    [
        (3072, 0, "6Gi", True),
        (3073, 0, "6Gi", False),
        (2072, 1000, "6144Mi", True),
        (2072, 1001, "6144Mi", False),
        (929, 0, "1900M", False),
        (929, 0, "2G", True),
        (929, 0, "0.001Ti", False),
        (929, 0, None, True),
        (929, 0, 10**10, True),
    ],
)
def test_what_lies_in_memory_leaves_half_of_the_limit_to_the_models(mode, shared, cache, limit, fits):
    values = {"mode": mode, "sharedMemory": {"sizeMiB": shared}, "encodedImageCache": cache}
    values["resources"] = {"cpu": {"limits": {"memory": limit}}}
    if fits:
        assert render(values)
    else:
        with pytest.raises(helm.HelmError, match=f"{shared + cache} MiB, are more than half of resources.cpu.limits"):
            render(values)


def test_several_models_for_a_gpu_get_the_memory_they_need(default_artifact):
    small, large = (helm_values([default_artifact("gpu", images)] * 2) for images in (64, 512))
    assert "resources" not in small
    memory, shared = large["resources"]["gpu"]["limits"]["memory"], large["sharedMemory"]["sizeMiB"]
    assert 2 * shared <= mebibytes(memory) < 2 * shared + 1024
    limits = server(render({**large, "models": ["one", "another"]}))["resources"]
    assert limits["requests"]["memory"] == limits["limits"]["memory"] == memory
    assert limits["limits"]["nvidia.com/gpu"] == 1


def test_the_memory_that_models_are_measured_by_is_the_charts():
    chart = yaml.safe_load((CHART / "values.yaml").read_text())["resources"]
    given = {profile: mebibytes(chart[profile]["limits"]["memory"]) // 1024 for profile in chart}
    assert given == helm_values_module._MEMORY


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
    assert startup["periodSeconds"] * startup["failureThreshold"] >= start + FILES_ARE_READ


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


def test_the_buckets_role_is_not_the_proxies():
    """Clouds hand a role's credentials to every pod of the service account, whether or not it mounts the token."""
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/models"}
    documents = render({"serviceAccount": {"annotations": role}})
    accounts = {component: pod(documents, component)["serviceAccountName"] for component in ("server", "proxy")}
    assert documents["ServiceAccount", accounts["server"]]["metadata"]["annotations"] == role
    proxies = documents["ServiceAccount", accounts["proxy"]]
    assert ("annotations" in proxies["metadata"], proxies["automountServiceAccountToken"]) == (False, False)


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
    assert {port["port"] for port in names["ports"]} == {53, 5353}
    assert [port["port"] for port in bucket["ports"]] == ports


def test_a_server_reaches_what_the_operator_names():
    agent = {"to": [{"ipBlock": {"cidr": "169.254.170.23/32"}}], "ports": [{"port": 80}]}
    documents = render({"networkPolicy": {"extraEgress": [agent]}})
    for component in ("server", "proxy"):
        policy = documents["NetworkPolicy", f"captions-{component}"]["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert agent in policy["egress"]


@pytest.mark.parametrize("case", ["defaults", "image-tls-canary"])
def test_no_caller_can_have_the_proxies_take_servers_for_dead(case):
    """Nginx counts what a caller provokes: a 503 over HTTP, a call that is reset over gRPC."""
    upstreams = render(values_of(case))["ConfigMap", "captions-proxy"]["data"]["upstreams.conf"]
    servers = [line for line in upstreams.splitlines() if line.strip().startswith("server ")]
    assert servers
    assert all(" max_fails=0" in line for line in servers)


def test_a_proxy_finds_the_servers_names_whoever_answers_for_them(defaults):
    """A cache on the node, a cloud's own servers, OpenShift's pods at 5353."""
    _, names = defaults["NetworkPolicy", "captions-proxy"]["spec"]["egress"]
    assert "to" not in names
    asked = {(port["port"], port.get("protocol", "TCP")) for port in names["ports"]}
    assert asked == {(port, protocol) for port in (53, 5353) for protocol in ("UDP", "TCP")}


def test_proxies_come_from_the_same_registry_and_go_where_servers_may():
    documents = render(values_of("gpu-s3-keda"))
    servers, proxies = (pod(documents, component) for component in ("server", "proxy"))
    assert proxies["imagePullSecrets"] == servers["imagePullSecrets"] == [{"name": "registry"}]
    assert proxies["tolerations"] == servers["tolerations"]
    assert "nodeSelector" not in proxies  # the servers' is for a GPU


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


def test_servers_are_replaced_within_their_time_and_as_the_nodes_allow(defaults):
    """A node's only GPU is free for a new server when the old one has gone."""
    start = int(environment(server(defaults))["OFA_START_TIMEOUT"])
    for component in ("server", "proxy"):
        assert defaults["Deployment", f"captions-{component}"]["spec"]["progressDeadlineSeconds"] == start + 600
    tight = render({"strategy": {"maxSurge": 0, "maxUnavailable": 1}})["Deployment", "captions-server"]["spec"]
    assert tight["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_autoscaling_begins_with_the_servers_there_are(tmp_path, monkeypatch):
    """Helm asks the cluster for the Deployment; the render here is without one, and is given it."""
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    template = chart / "templates/server.yaml"
    asked = 'lookup "apps/v1" "Deployment" .Release.Namespace (printf "%s-server" .Release.Name)'
    assert template.read_text().count(asked) == 1
    template.write_text(template.read_text().replace(asked, 'dict "spec" (dict "replicas" 7)'))
    monkeypatch.setattr(chart_module, "CHART", chart)
    assert render({})["Deployment", "captions-server"]["spec"]["replicas"] == 7
    fixed = render({"autoscaling": {"enabled": False}})
    assert fixed["Deployment", "captions-server"]["spec"]["replicas"] == 2


def test_an_autoscaled_deployment_does_not_fix_its_replicas(defaults):
    assert "replicas" not in defaults["Deployment", "captions-server"]["spec"]
    fixed = render(values_of("image-tls-canary"))
    assert fixed["Deployment", "captions-server"]["spec"]["replicas"] == 3
    assert ("HorizontalPodAutoscaler", "captions-server") not in fixed


def test_keda_counts_servers_and_not_the_models_in_them():
    triggers = render(values_of("gpu-s3-keda"))["ScaledObject", "captions-server"]["spec"]["triggers"]
    (ratio,) = [trigger for trigger in triggers if trigger["name"] == "queue-compute-ratio"]
    assert "* count(count by (pod) (ofa_images_in_flight{" in ratio["metadata"]["query"]


def test_keda_keeps_the_servers_there_are_where_prometheus_finds_nothing():
    """Of an empty answer KEDA makes 0 unless told otherwise, which is right for the ratio alone: nobody asks then."""
    specification = render(values_of("gpu-s3-keda"))["ScaledObject", "captions-server"]["spec"]
    assert specification["fallback"]["behavior"] == "currentReplicas"
    triggers = {trigger["name"]: trigger["metadata"] for trigger in specification["triggers"]}
    assert {name: metadata.get("ignoreNullValues") for name, metadata in triggers.items()} == {
        "requests-per-second": "false",
        "images-in-flight": "false",
        "queue-compute-ratio": None,
    }


def test_the_adapter_offers_what_the_autoscaler_reads(defaults):
    metrics = defaults["HorizontalPodAutoscaler", "captions-server"]["spec"]["metrics"]
    wanted = {metric["pods"]["metric"]["name"] for metric in metrics}
    rules = yaml.safe_load((CHART / "files/prometheus-adapter-values.yaml").read_text())["rules"]["custom"]
    assert {rule["name"]["as"] for rule in rules} == wanted


def test_kserve_gets_the_same_server_with_the_same_probes(defaults):
    documents = render({**values_of("kserve"), "image": {"pullSecrets": ["registry"]}})
    container = documents["ServingRuntime", "captions"]["spec"]["containers"][0]
    assert container["livenessProbe"] == server(defaults)["livenessProbe"]
    assert environment(container)["OFA_ARTIFACTS"] == "/mnt/models"
    predictor = documents["InferenceService", "captions"]["spec"]["predictor"]
    assert predictor["model"]["runtime"] == "captions"
    for name in ("terminationGracePeriodSeconds", "enableServiceLinks"):
        assert predictor[name] == pod(defaults, "server")[name]
    assert predictor["imagePullSecrets"] == [{"name": "registry"}]
