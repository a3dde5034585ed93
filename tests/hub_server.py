"""A loopback server that speaks as much of both hubs' protocols as their libraries need to fetch a checkpoint."""

import hashlib
import http.server
import json
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(http.server.BaseHTTPRequestHandler):
    repository: str
    directory: Path
    requested: list

    def do_GET(self):
        url = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        modelscope = f"/api/v1/models/{self.repository}"
        hugging_face = f"/api/models/{self.repository}"
        self.requested.append(self.path)
        if url.path == f"{modelscope}/repo/files":
            self._json({"Code": 200, "Success": True, "Data": {"Files": [_listed(path) for path in self._files()]}})
        elif url.path == f"{modelscope}/repo":
            self._file(query["FilePath"])
        elif url.path.startswith(f"{hugging_face}/revision/"):
            names = [{"rfilename": path.name} for path in self._files()]
            self._json({"id": self.repository, "sha": COMMIT, "siblings": names})
        elif url.path == f"{hugging_face}/tree/{COMMIT}":
            self._json(
                [{"type": "file", "oid": COMMIT, "size": _size(path), "path": path.name} for path in self._files()]
            )
        elif url.path.startswith(f"/{self.repository}/resolve/{COMMIT}/"):
            self._file(url.path.rsplit("/", 1)[1])
        else:
            self._send(
                404, b'{"Code": 404, "Success": false, "Message": "not found"}', {"X-Error-Code": "RepoNotFound"}
            )

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass

    def _files(self):
        return sorted(self.directory.iterdir())

    def _file(self, name):
        body = (self.directory / name).read_bytes()
        etag = f'"{hashlib.sha1(body).hexdigest()}"'
        self._send(200, body, {"ETag": etag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})

    def _json(self, value):
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _size(path):
    return path.stat().st_size


def _listed(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"Name": path.name, "Path": path.name, "Type": "blob", "Size": _size(path), "Sha256": digest}


@contextmanager
def hub_server(repository: str, directory: Path):
    """Serve ``directory`` as ``repository`` on a free port; yields the endpoint and the list of requested paths."""
    requested = []
    handler = type("Handler", (_Handler,), {"repository": repository, "directory": directory, "requested": requested})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", requested
        server.shutdown()
        thread.join()
