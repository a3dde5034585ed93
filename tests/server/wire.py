"""Asking a server for captions over each protocol, without our own client."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import tritonclient.grpc
import tritonclient.http

OUTPUTS = ("caption", "score", "tokens", "token_logprobs")
FLOATS = ("length_penalty", "temperature", "unk_penalty")


def over_grpc(server, model, images, outputs=OUTPUTS, timeout=60, **parameters):
    """The outputs of a request with images [b, 1], by name; parameters as they are."""
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        return _infer(tritonclient.grpc, client, model, images, outputs, parameters, client_timeout=timeout)


def over_http(server, model, images, outputs=OUTPUTS, **parameters):
    """The same over HTTP."""
    url = server.http_url.removeprefix("http://")
    with tritonclient.http.InferenceServerClient(url, network_timeout=60) as client:
        return _infer(tritonclient.http, client, model, images, outputs, parameters)


def _infer(protocol, client, model, images, outputs, parameters, **options):
    tensor = protocol.InferInput("image", [len(images), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=np.object_).reshape(-1, 1))
    wanted = [protocol.InferRequestedOutput(name) for name in outputs]
    sent = {name: str(value) if name in FLOATS else value for name, value in parameters.items()}
    answer = client.infer(model, [tensor], outputs=wanted, parameters=sent, **options)
    return {name: answer.as_numpy(name) for name in outputs}


def over_curl(server, model, path):
    """Status and outputs of the README's curl line: one file, no header of ours but one."""
    command = ["curl", "-s", "-D", "-", "--data-binary", f"@{path}", "-H", "Inference-Header-Content-Length: 0"]
    reply = subprocess.run(
        [*command, f"{server.http_url}/v2/models/{model}/infer"], capture_output=True, check=True, timeout=60
    ).stdout
    head, _, body = reply.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    length = int(headers.get(b"inference-header-content-length", len(body)))
    return status, json.loads(body[:length]), body[length:]
