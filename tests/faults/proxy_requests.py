"""Plain HTTP requests through a proxy, and what is asked of one."""

import json
import urllib.error
import urllib.request

from cases import CASES

MODEL = CASES[0].model_name
IMAGE = CASES[0].images[0]
KNOWN = CASES[0].record["captions"][0][0]
INFER = f"/v2/models/{MODEL}/infer"
RAW = {"Inference-Header-Content-Length": "0"}


def http(proxy, path, body=None, headers=(), context=None, **options):
    """Status, headers and body of a plain HTTP request."""
    request = urllib.request.Request(proxy.http_url + path, body, dict(headers), **options)
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def refusal(proxy, *request, **options):
    status, _, body = http(proxy, *request, **options)
    return status, json.loads(body)["error"].partition(":")[0]
