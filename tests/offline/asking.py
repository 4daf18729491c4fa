"""What test_network.py runs by itself: tests that ask for the network, and hide it."""

import socket
import subprocess
import sys
from contextlib import suppress
from multiprocessing import get_context

import pytest
from jupyter_client.manager import start_new_kernel

HIDDEN = """
import socket
try:
    socket.getaddrinfo("example.org", 80)
except OSError as error:
    print(error)
"""


def lookup(host: str) -> None:
    with suppress(OSError):
        socket.getaddrinfo(host, 80)


def test_this_process() -> None:
    with pytest.raises(PermissionError, match=r"192\.0\.2\.1"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


def test_program() -> None:
    subprocess.run([sys.executable, "-c", HIDDEN], check=True)


def test_pool() -> None:
    with get_context("spawn").Pool(1) as pool:
        pool.map(lookup, ["example.org"])


def test_kernel() -> None:
    manager, client = start_new_kernel()
    client.execute_interactive(HIDDEN)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, suppress(OSError):
        datagrams.sendto(b"", ("192.0.2.1", 80))


def test_this_machine_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    lookup("localhost")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams, suppress(OSError):
        datagrams.connect(("192.0.2.1", 80))  # sends nothing
