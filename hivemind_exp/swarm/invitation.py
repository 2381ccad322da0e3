"""Invitations: the line with which a node can join a swarm, ``swarm1:HASH@ADDRESS,…``."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from hivemind_exp.errors import SwarmError
from hivemind_exp.swarm.identity import is_peer_id

PREFIX = "swarm1:"
MOST_ADDRESSES = 16
LONGEST_ADDRESS = 300
_LONGEST = len(PREFIX) + 64 + MOST_ADDRESSES * (LONGEST_ADDRESS + 1)
_UNSEEN = re.compile(r"[\s\u200b-\u200f\u2060\ufeff\u00ad]+")
_AROUND = "\"'`<>()[]*.,;"
_HASH = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_ADDRESS = re.compile(
    r"/(?P<kind>ip4|ip6|dns[46]?)/(?P<host>[^/]*)/(?:tcp|udp)/(?P<port>[0-9]{1,5})(?:/(?:quic|quic-v1|ws|wss))?"
    r"(?:/p2p/(?P<relay>[^/]*)/p2p-circuit)?/p2p/(?P<peer>[^/]*)"
)
_RSA_PEER = re.compile(r"Qm[1-9A-HJ-NP-Za-km-z]{44}")
_NEXT = "swarmctl swarm --help"


@dataclass(frozen=True, slots=True)
class Invitation:
    """A swarm's id, and the addresses of some of its peers."""

    charter: str
    """SHA-256 (hex) of the charter: the swarm's id."""
    addresses: tuple[str, ...] = ()
    """Multiaddresses that end in a peer id. If empty, this machine must already have the charter."""

    def __str__(self) -> str:
        return PREFIX + self.charter + ("@" + ",".join(self.addresses) if self.addresses else "")


def parse(text: str) -> Invitation:
    """Parse an invitation. Ignores line breaks from a terminal, and quotes or other marks around it.

    Raises:
        SwarmError: it is not an invitation, or one of its addresses is invalid. The message does not repeat the text,
            because it is untrusted.
    """
    if len(text) > 2 * _LONGEST:
        raise SwarmError("the invitation is too long", next=_NEXT)
    line = _UNSEEN.sub("", text)
    _, found, rest = line.partition(PREFIX)
    if not found:
        raise SwarmError(
            f"not an invitation: it does not contain {PREFIX}. Use the whole line that `swarmctl swarm invite` prints "
            "on a machine in the swarm",
            next=_NEXT,
        )
    if PREFIX in rest:
        raise SwarmError(f"more than one invitation: {PREFIX} occurs more than once", next=_NEXT)
    charter, at, places = rest.strip(_AROUND).partition("@")
    if _HASH.fullmatch(charter) is None:
        raise SwarmError(
            f"invalid invitation: {PREFIX} must be followed by 64 digits of 0-9 and a-f, not by {len(charter)} "
            "characters; part of it may be missing. Copy the whole line that `swarmctl swarm invite` prints",
            next=_NEXT,
        )
    addresses = tuple(dict.fromkeys(places.split(","))) if at else ()
    if len(addresses) > MOST_ADDRESSES:
        raise SwarmError(
            f"invalid invitation: {len(addresses)} addresses, but the maximum is {MOST_ADDRESSES}", next=_NEXT
        )
    for number, address in enumerate(addresses, 1):
        if not is_address(address):
            raise SwarmError(
                f"invalid invitation: address {number} is not like /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW…; "
                "part of it may be missing. Copy the whole line that `swarmctl swarm invite` prints",
                next=_NEXT,
            )
    return Invitation(charter, addresses)


def is_address(text: str) -> bool:
    """Whether ``text`` is a peer's multiaddress, direct or through a relay. Does not resolve names."""
    found = _ADDRESS.fullmatch(text) if len(text) <= LONGEST_ADDRESS else None
    if found is None or not 0 < int(found["port"]) < 65536:
        return False
    # A relay's key may be of another type (Qm…: RSA).
    relayed = found["relay"] is None or is_peer_id(found["relay"]) or _RSA_PEER.fullmatch(found["relay"])
    return bool(relayed) and is_peer_id(found["peer"]) and _is_host(found["kind"], found["host"])


def _is_host(kind: str, value: str) -> bool:
    """Whether ``value`` is a valid host of this kind: ip4, ip6, dns, dns4 or dns6."""
    try:
        if kind == "ip4":
            return str(IPv4Address(value)) == value
        if kind == "ip6":
            return "%" not in value and bool(IPv6Address(value))
    except ValueError:
        return False
    return _HOST.fullmatch(value) is not None
