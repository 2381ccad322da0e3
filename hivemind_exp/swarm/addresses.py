"""A node's port, which is chosen once and saved, and the addresses of its machine."""

import contextlib
import ipaddress
import json
import socket
from pathlib import Path

import psutil

from hivemind_exp import atomic_write, formats
from hivemind_exp.errors import SwarmError
from hivemind_exp.swarm.dial import plain_port
from hivemind_exp.swarm_settings import SwarmConfig

PORT_FILE = "port"
"""The file with the port in a node's invitations (JSON). Every start tries this port."""
_OTHER_PORT_FILE = "port-now"
"""The file with the port of a run that found the invitations' port in use."""
_VIRTUAL = ("docker", "br-", "veth", "virbr", "cni", "podman", "vmnet", "lxc")
"""Prefixes of interfaces whose addresses are only valid on one machine."""
LOOPBACK = "127.0.0.1"


def kept_port(directory: Path, settings: SwarmConfig) -> int:
    """Return the port that a node listens on: the configured one, else the one saved in ``directory``.

    If there is neither, choose a free port and save it. Raises OSError, and SwarmError if no port is available.
    """
    known = settings.port or read_port(directory)
    if known:
        return known
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with take(0, directory / PORT_FILE, loopback=settings.loopback) as chosen:
        return int(chosen.getsockname()[1])


def read_port(directory: Path) -> int | None:
    """Return the port of a node's latest run, or None if there is none."""
    return _port_in(directory / _OTHER_PORT_FILE) or invited_port(directory)


def invited_port(directory: Path) -> int | None:
    """Return the port in a node's invitations, or None if there is none."""
    return _port_in(directory / PORT_FILE)


def _port_in(path: Path) -> int | None:
    """Return the port in a file. Early versions wrote only the number. Raises ``NewerFormat``."""
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if isinstance(stored, dict):
        formats.check_number(path, stored.get("schema"))
        stored = stored.get("port")
    return stored if type(stored) is int and 0 < stored < 65536 else None


def is_free(port: int) -> bool:
    """Whether no process on this machine listens on a TCP port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Bind as the daemon does: a port that only lingers in TIME_WAIT after a node has stopped counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def hosts(*, loopback: bool = False) -> tuple[str, ...]:
    """Return this machine's IPv4 addresses that others may reach, public ones first.

    Return only the loopback address if ``loopback`` is set or if there is no other address.
    """
    if loopback:
        return (LOOPBACK,)
    status = psutil.net_if_stats()
    found = {
        address.address
        for name, addresses in psutil.net_if_addrs().items()
        if not name.startswith(_VIRTUAL) and (name not in status or status[name].isup)
        for address in addresses
        if address.family is socket.AF_INET
    }
    usable = {each for each in found if not (ip := ipaddress.IPv4Address(each)).is_loopback and not ip.is_link_local}
    return tuple(sorted(usable, key=lambda each: (not is_public(each), each))) or (LOOPBACK,)


def is_here(address: str, port: int, *, loopback: bool) -> bool:
    """Whether a multiaddress leads to a daemon of this machine that listens on this TCP port.

    ``loopback``: whether the daemon listens on the loopback address only. Host names are not resolved.
    """
    where = plain_port(address)
    if where is None or where[1] != port:
        return False
    host = where[0]
    if loopback:
        return host == LOOPBACK
    everywhere = (each for found in psutil.net_if_addrs().values() for each in found)
    return any(each.family is socket.AF_INET and each.address == host for each in everywhere)


def is_public(host: str) -> bool:
    """Whether an address is public, judged by the address alone. Host names count as public."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return True  # a host name


def own_addresses(peer_id: str, port: int, settings: SwarmConfig) -> tuple[str, ...]:
    """Return this node's multiaddresses: those in ``swarm.announce``, else those of this machine."""
    places = [each.rstrip("/") for each in settings.announce]
    places = places or [f"/ip4/{host}/tcp/{port}" for host in hosts(loopback=settings.loopback)]
    return tuple(each if "/p2p/" in each else f"{each}/p2p/{peer_id}" for each in places)


def take(wanted: int, path: Path, *, loopback: bool) -> socket.socket:
    """Return a socket that holds a free port for the daemon.

    Without it, the daemon would start on another daemon's port and report no error.

    Args:
        wanted: the port, or 0 for the one saved in ``path``. If that is in use, choose another for this run. The next
            run tries the saved port again.

    Raises:
        SwarmError: ``wanted`` is in use.
        NewerFormat: a newer version wrote the file.
    """
    host = LOOPBACK if loopback else "0.0.0.0"
    if wanted:
        try:
            return _hold(host, wanted)
        except OSError as error:
            raise SwarmError(
                f"cannot use port {wanted}: {error.strerror}",
                next="swarmctl run --set swarm.port=0",
            ) from error
    other, saved = path.with_name(_OTHER_PORT_FILE), _port_in(path)
    if saved is not None:
        with contextlib.suppress(OSError):
            held = _hold(host, saved)
            other.unlink(missing_ok=True)
            return held
    port = _hold(host, 0)
    with contextlib.suppress(OSError):
        body = {"schema": formats.FORMAT, "port": port.getsockname()[1]}
        atomic_write.write(path if saved is None else other, json.dumps(body) + "\n")
    return port


def _hold(host: str, number: int) -> socket.socket:
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Allow lingering connections from an earlier run. Binding still fails if a daemon or another holder listens.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((host, number))
        # From here on, other holders cannot bind, but the daemon can, because it also sets SO_REUSEPORT.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        holder.close()
        raise
    return holder
