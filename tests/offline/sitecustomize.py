"""Keep a Python process from asking for anything outside this machine.

Python imports this file at its start where the folder is on the path, so that the block goes on to
kernels, builders and pools of processes (conftest.py puts it there). What is asked for is refused
and noted in the file that BALANCING_NETWORK_LOG names, as many a library hides that it failed.
Programs that are not Python are not kept from anything: the browser has its own guard.
"""

import os
import sys
from typing import Any

_LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
_SENDING = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_DATAGRAM = 2
_HERE = {"", "localhost", "0.0.0.0", "::", "::1"}


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _LOOKUPS:
        host = arguments[0]
    elif event in _SENDING:
        # This sends nothing: it is a way to learn one's own address.
        if event == "socket.connect" and arguments[0].type == _DATAGRAM:
            return
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # or the path of a Unix socket
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if not isinstance(host, str) or host in _HERE or host.startswith("127."):
        return
    with open(os.environ["BALANCING_NETWORK_LOG"], "a", encoding="utf-8") as log:
        log.write(f"{event} {host}\n")
    raise PermissionError(f"the tests may not use the network, and {host} was asked for")


sys.addaudithook(_refuse)
