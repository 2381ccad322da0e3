"""Whether a node could listen here, and at which addresses this machine answers itself."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from swarmctl.doctor.check import Context, Finding, failed, ok, warning

_CONNECT_S = 0.5


def port(_context: Context) -> Finding:
    """Open a port, and dial it at each address of this machine."""
    return dial(addresses())


def addresses() -> list[str]:
    """Return the IPv4 addresses of this machine, loopback last."""
    import psutil

    found = {
        address.address
        for interface in psutil.net_if_addrs().values()
        for address in interface
        if address.family is socket.AF_INET
    }
    return sorted(found, key=lambda each: (each.startswith("127."), each))


def dial(targets: Sequence[str]) -> Finding:
    """Judge how a port that listens at every address answers at ``targets``."""
    try:
        listener = socket.create_server(("", 0))
    except OSError as error:
        return failed(f"no port can be opened: {error.strerror}", "ulimit -n 65536")
    with listener:
        number = listener.getsockname()[1]
        deaf = [each for each in targets if not _answers(each, number)]
    if deaf:
        return warning(f"a port can be opened, and does not answer at {', '.join(deaf)}: a firewall?", "ip addr")
    outside = [each for each in targets if not each.startswith("127.")]
    where = ", ".join(outside) if outside else "loopback alone"
    return ok(f"a port can be opened and dialled from here at {where}; whether others reach it is not known here")


def _answers(address: str, number: int) -> bool:
    try:
        socket.create_connection((address, number), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True
