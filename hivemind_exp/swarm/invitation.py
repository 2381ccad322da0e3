"""The one line that lets a node into a swarm: ``swarm1:HASH@ADDRESS,…``."""

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
_NEXT = "swarmctl swarm invite"


@dataclass(frozen=True, slots=True)
class Invitation:
    """Which swarm, and where some of its peers can be reached."""

    charter: str
    """SHA-256 (hex) of the charter: the swarm's id."""
    addresses: tuple[str, ...] = ()
    """Multiaddresses that end in a peer id. None: the charter must be known here already."""

    def __str__(self) -> str:
        return PREFIX + self.charter + ("@" + ",".join(self.addresses) if self.addresses else "")


def parse(text: str) -> Invitation:
    """Read an invitation, also where a terminal broke the line or a chat put marks around it.

    Raises:
        SwarmError: it is none, or one of its addresses cannot be right. Hostile text is not repeated.
    """
    if len(text) > 2 * _LONGEST:
        raise SwarmError("this is too long for an invitation", next=_NEXT)
    line = _UNSEEN.sub("", text)
    _, found, rest = line.partition(PREFIX)
    if not found:
        raise SwarmError(f"an invitation begins with {PREFIX}", next=_NEXT)
    if PREFIX in rest:
        raise SwarmError("there is more than one invitation", next=_NEXT)
    charter, at, places = rest.strip(_AROUND).partition("@")
    if _HASH.fullmatch(charter) is None:
        raise SwarmError(
            f"behind {PREFIX} stand 64 digits of 0-9 and a-f, not {len(charter)} characters; a part may be missing",
            next=_NEXT,
        )
    addresses = tuple(dict.fromkeys(places.split(","))) if at else ()
    if len(addresses) > MOST_ADDRESSES:
        raise SwarmError(f"an invitation has at most {MOST_ADDRESSES} addresses", next=_NEXT)
    for number, address in enumerate(addresses, 1):
        if not is_address(address):
            raise SwarmError(
                f"address {number} of the invitation is none, such as /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW…; "
                "a part may be missing",
                next=_NEXT,
            )
    return Invitation(charter, addresses)


def is_address(text: str) -> bool:
    """Whether ``text`` is a multiaddress of a peer, direct or through a relay. Resolves no name."""
    found = _ADDRESS.fullmatch(text) if len(text) <= LONGEST_ADDRESS else None
    if found is None or not 0 < int(found["port"]) < 65536:
        return False
    # A relay's key may be of another kind (Qm…: RSA).
    relayed = found["relay"] is None or is_peer_id(found["relay"]) or _RSA_PEER.fullmatch(found["relay"])
    return bool(relayed) and is_peer_id(found["peer"]) and _is_host(found["kind"], found["host"])


def _is_host(kind: str, value: str) -> bool:
    """Whether ``value`` is a host of this kind: ip4, ip6, dns, dns4 or dns6."""
    try:
        if kind == "ip4":
            return str(IPv4Address(value)) == value
        if kind == "ip6":
            return "%" not in value and bool(IPv6Address(value))
    except ValueError:
        return False
    return _HOST.fullmatch(value) is not None
