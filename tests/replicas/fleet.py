"""Servers that come and go, as a deployment's replicas do."""

import re

from serving_process import ServerProcess


class Fleet:
    """Real servers on ports of loopback; those that a test has ended are replaced for the next one.

    Args:
        artifacts: the folder with the built checkpoint.
        name: the checkpoint served.
        work: a folder for the servers' files.

    """

    def __init__(self, artifacts, name, work):
        self._artifacts, self._name, self._work = artifacts, name, work
        self._servers = []
        self._started = 0

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        for server in self._servers:
            server.stop()

    def running(self, count):
        """So many servers that are up and idle; what is missing starts at one time, as pods do."""
        missing = [self._start() for _ in range(count - len(self._servers))]
        for server in missing:
            assert server.wait_until_ready(), server.log()[-2000:]
        self._servers += missing
        return self._servers[:count]

    def gone(self, server):
        """Takes note that a test has ended a server."""
        self._servers.remove(server)

    def _start(self):
        self._started += 1
        work = self._work / f"server{self._started}"
        work.mkdir()
        flags = ["--log-format=json", "--request-log=all"]
        server = ServerProcess(self._artifacts, [self._name], work, flags)
        server.start()
        return server


def captions_by(server):
    """How many captions it has given, its probes' not counted."""
    return server.metric("ofa_requests_total", code="OK")


def calls_of(proxy):
    """Of each call that the proxy logged: the ids, and the servers it was passed on to, one after the other."""
    found = re.findall(r'"id":"([^"]+)".*ModelInfer.*"upstream":"([^"]*)"', proxy.log_path.read_text())
    return {request_id: re.split(r", | : ", upstreams) for request_id, upstreams in found}
