"""Ports are claimed before anything starts."""

import socket

import pytest
from ofa_serving.launcher.errors import LaunchError
from ofa_serving.launcher.ports import claim_ports
from ofa_serving.launcher.settings import Ports

LOOPBACK = "127.0.0.1"


@pytest.fixture
def taken():
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_zero_becomes_a_free_port_for_each():
    ports = claim_ports(LOOPBACK, Ports(0, 0, 0))
    claimed = {ports.http, ports.grpc, ports.metrics}
    assert len(claimed) == 3
    for port in claimed:
        with socket.socket() as listener:
            listener.bind((LOOPBACK, port))


def test_free_ports_are_kept_as_asked():
    ports = claim_ports(LOOPBACK, Ports(0, 0, 0))
    assert claim_ports(LOOPBACK, ports) == ports


@pytest.mark.parametrize("use", ["http", "grpc", "metrics"])
def test_a_taken_port_is_refused_with_its_flag(taken, use):
    ports = Ports(**{"http": 0, "grpc": 0, "metrics": 0, use: taken})
    with pytest.raises(LaunchError, match=f"port {taken} for {use} is taken; free it, or .* --{use}-port"):
        claim_ports(LOOPBACK, ports)


def test_a_port_asked_for_twice_is_refused():
    port = claim_ports(LOOPBACK, Ports(0, 0, 0)).http
    with pytest.raises(LaunchError, match=f"port {port} is asked for twice"):
        claim_ports(LOOPBACK, Ports(port, 0, port))


@pytest.mark.parametrize("port", [0, 8000])
def test_an_address_of_another_machine_is_refused(port):
    with pytest.raises(LaunchError, match=r"cannot listen on 192\.0\.2\.1.*Cannot assign requested address"):
        claim_ports("192.0.2.1", Ports(port, 0, 0))


def test_a_port_whose_connections_have_just_closed_is_free():
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)):
            listener.accept()[0].close()  # the server closes first: the port lingers in TIME_WAIT
    assert claim_ports(LOOPBACK, Ports(port, 0, 0)).http == port
