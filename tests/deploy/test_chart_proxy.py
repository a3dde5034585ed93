"""The chart's proxy: what it lets through and to whom, as rendered and, where nginx is installed, as it runs."""

import contextlib
import re
import socket
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from chart import each_deployment, mebibytes, pod, render, values_of, yaml
from ofa_serving.images import ImageLimits
from proxy_process import MISSING, NGINX, ProxyProcess
from proxy_requests import RAW

ROOT = Path(__file__).parents[2]
PROXY = ROOT / "deploy/proxy"
PROXIES = {
    "podSelector": {
        "matchLabels": {"app.kubernetes.io/name": "ofa-caption", "app.kubernetes.io/component": "proxy"},
    }
}


def test_the_proxy_balances_over_the_servers_that_the_headless_service_names(defaults):
    text = defaults["ConfigMap", "captions-proxy"]["data"]["upstreams.conf"]
    assert "server captions-server.vision.svc.cluster.local:8001 resolve" in text
    assert text.count("least_conn;") == 2


def test_a_canary_gets_its_share_and_both_sides_find_each_other():
    stable, canary = render(values_of("image-tls-canary")), render(values_of("canary-release"))
    text = stable["ConfigMap", "captions-proxy"]["data"]["upstreams.conf"]
    assert re.search(r"split_clients \$request_id \$track {\s+10% canary;\s+\* stable;\s+}", text)
    assert "server captions-next-server.vision.svc.cluster.local:8001 resolve" in text
    assert len(re.findall(r"server captions-server\.\S+ resolve .* backup;", text)) == 2
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
def test_a_broken_canary_costs_nobody_anything(tmp_path):
    values = {"proxy": {"canary": {"release": "captions-next", "percent": 99}}}
    upstreams = render(values)["ConfigMap", "captions-proxy"]["data"]["upstreams.conf"]
    with ready_server() as stable:
        for release, port in (("captions", stable.server_port), ("captions-next", 1)):
            upstreams = re.sub(rf"server {release}-server\.\S+ resolve", f"server 127.0.0.1:{port}", upstreams)
        proxy = ProxyProcess(tmp_path / "proxy", [])
        (proxy.site / "upstreams.conf").write_text(re.sub(r"resolver \S+ ", "resolver 127.0.0.1 ", upstreams))
        with proxy:
            for _ in range(10):
                assert urllib.request.urlopen(f"{proxy.health_url}/ready", timeout=60).status == 200
                caption = urllib.request.Request(f"{proxy.http_url}/v2/models/m/infer", b"an image", RAW)
                assert urllib.request.urlopen(caption, timeout=60).status == 200


@pytest.mark.skipif(NGINX is None, reason=MISSING)
@pytest.mark.parametrize("alive", [0, 1])
def test_a_node_that_is_lost_takes_no_proxy_with_it(defaults, tmp_path, alive):
    """Its server's address lets nobody connect, and refuses nobody either, until the cluster forgets it."""
    container = pod(defaults, "proxy")["containers"][0]
    with ready_server() as server, black_hole() as lost:
        url = f"http://127.0.0.1:{server.server_port}"
        servers = [SimpleNamespace(http_url=lost, grpc_url="127.0.0.1:1")]
        servers += [SimpleNamespace(http_url=url, grpc_url="127.0.0.1:1")] * alive
        with ProxyProcess(tmp_path / "proxy", servers) as proxy:
            for name in ["readinessProbe", "livenessProbe", *["startupProbe"] * alive]:
                for _ in range(4):
                    assert passes(container[name], proxy), name


def passes(probe, proxy):
    """Whether the kubelet takes a proxy's answer for a good one."""
    try:
        url = f"{proxy.health_url}{probe['httpGet']['path']}"
        return urllib.request.urlopen(url, timeout=probe.get("timeoutSeconds", 1)).status < 400
    except OSError:
        return False


@contextlib.contextmanager
def black_hole():
    """The URL of a server that no connection reaches: its queue of those that wait is full."""
    with contextlib.ExitStack() as held:
        full = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        with contextlib.suppress(TimeoutError):
            while True:
                held.enter_context(socket.create_connection(full.getsockname(), timeout=0.2))
        yield f"http://127.0.0.1:{full.getsockname()[1]}"


@contextlib.contextmanager
def ready_server():
    """A server that is ready, and captions."""
    with ThreadingHTTPServer(("127.0.0.1", 0), ReadyHandler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


class ReadyHandler(BaseHTTPRequestHandler):
    """Answers all there is with 200."""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

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


def test_callers_behind_a_balancer_are_told_apart_by_what_it_says():
    """As in the sites' own files, which the fault tests run."""
    behind = render({"proxy": {"trustedProxies": ["10.0.0.0/8", "fd00::1"], "serviceType": "LoadBalancer"}})
    lines = behind["ConfigMap", "captions-proxy"]["data"]["limits.conf"].splitlines()
    proposed = re.findall(r"^# (.*real_ip.*;)$", (PROXY / "plain/limits.conf").read_text(), re.MULTILINE)
    assert [line for line in lines if "real_ip" in line] == [proposed[0], "set_real_ip_from fd00::1;", *proposed[1:]]
    assert "real_ip" not in render({})["ConfigMap", "captions-proxy"]["data"]["limits.conf"]


def test_a_balancer_leaves_the_callers_addresses_and_is_told_what_it_needs(defaults):
    values = {"serviceType": "LoadBalancer", "serviceAnnotations": {"cloud.example.com/internal": "true"}}
    service = render({"proxy": values})["Service", "captions"]
    assert service["spec"]["externalTrafficPolicy"] == "Local"
    assert service["metadata"]["annotations"] == values["serviceAnnotations"]
    spread = render({"proxy": {**values, "externalTrafficPolicy": "Cluster"}})["Service", "captions"]["spec"]
    assert spread["externalTrafficPolicy"] == "Cluster"
    assert "externalTrafficPolicy" not in defaults["Service", "captions"]["spec"]


SITES = {site: (PROXY / site / "limits.conf").read_text() for site in ("plain", "tls")}


@pytest.mark.parametrize("site", ["chart", *SITES])
def test_one_caller_cannot_fill_the_proxys_room_for_bodies(defaults, site):
    """Nor does a full room leave nginx no memory. An image as large as is taken fits into a body."""
    if site == "chart":
        limits = defaults["ConfigMap", "captions-proxy"]["data"]["limits.conf"]
        volume = next(volume for volume in pod(defaults, "proxy")["volumes"] if volume["name"] == "tmp")
        room = mebibytes(volume["emptyDir"]["sizeLimit"])
        memory = mebibytes(pod(defaults, "proxy")["containers"][0]["resources"]["limits"]["memory"])
    else:
        limits = SITES[site]
        compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]["proxy"]
        room = int(re.fullmatch(r"/tmp:size=(\d+)m", compose["tmpfs"][0])[1])
        memory = int(compose["mem_limit"].removesuffix("m"))
    body = int(re.search(r"client_max_body_size (\d+)m;", limits)[1])
    concurrent, large = (int(re.search(rf"limit_conn {zone} (\d+);", limits)[1]) for zone in ("concurrency", "large"))
    most = large * body + (concurrent - large) * 10**6 / 2**20
    assert most < room <= memory - 256
    assert body * 2**20 >= ImageLimits().max_bytes + 10_000
    if site != "chart":
        assert f"{most:.0f} MiB" in limits


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
