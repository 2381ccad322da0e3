"""Invitations: well-formed lines, lines that a chat has mangled, and invalid ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_exp.errors import SwarmError
from hivemind_exp.swarm.invitation import Invitation, is_address, parse
from hivemind_exp.swarm_settings import SwarmConfig

PEER = "12D3KooWGC7PuG8iX3gLdZPzZRzTbLiZqYdkh1RbpVjfKNkbzRPm"
HASH = "0123456789abcdef" * 4
GOOD = (
    f"/ip4/203.0.113.7/tcp/4001/p2p/{PEER}",
    f"/ip6/2001:db8::1/tcp/4001/p2p/{PEER}",
    f"/dns4/swarm.example.org/udp/4001/quic/p2p/{PEER}",
    f"/ip4/203.0.113.7/tcp/4001/p2p/{PEER}/p2p-circuit/p2p/{PEER}",
    f"/ip4/203.0.113.7/tcp/4001/p2p/Qm{'a' * 44}/p2p-circuit/p2p/{PEER}",
)
INVITATION = Invitation(HASH, GOOD)


@pytest.mark.parametrize("invitation", [INVITATION, Invitation(HASH)])
def test_an_invitation_survives_a_round_trip(invitation: Invitation) -> None:
    assert parse(str(invitation)) == invitation
    assert SwarmConfig(join=str(invitation)).charter == HASH


@pytest.mark.parametrize(
    "mangle",
    [
        lambda line: f"  {line}\n",
        lambda line: f"swarmctl run --join '{line}'",
        lambda line: f"join us: `{line}`.",
        lambda line: f"<{line}>",
        lambda line: "\r\n  ".join(line[start : start + 40] for start in range(0, len(line), 40)),
        "\u200b".join,
        lambda line: f"\ufeff{line},",
    ],
)
def test_mangled_invitations_are_read(mangle: object) -> None:
    assert callable(mangle)
    assert parse(mangle(str(INVITATION))) == INVITATION


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("", "not an invitation: it does not contain swarm1:"),
        ("swarm2:" + HASH, "not an invitation: it does not contain swarm1:"),
        ("swarm1:" + HASH[:-1], "not by 63 characters"),
        ("swarm1:" + HASH.upper(), "64 digits"),
        (f"swarm1:{HASH} swarm1:{HASH}", "more than one"),
        (f"swarm1:{HASH}@", "address 1"),
        (f"swarm1:{HASH}@{GOOD[0]},{GOOD[1][:-1]}", "address 2"),
        (
            f"swarm1:{HASH}@" + ",".join(f"/ip4/127.0.0.1/tcp/{port}/p2p/{PEER}" for port in range(1, 18)),
            "17 addresses, but the maximum is 16",
        ),
        ("swarm1:" + "a" * 100_000, "too long"),
    ],
)
def test_invalid_invitations_are_explained(line: str, told: str) -> None:
    with pytest.raises(SwarmError, match=told) as caught:
        parse(line)
    assert caught.value.next == "swarmctl swarm --help"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/",
        PEER,
        f"/ip4/203.0.113.7/tcp/4001/p2p/{PEER[:-1]}",
        f"/ip4/203.0.113.7/tcp/0/p2p/{PEER}",
        f"/ip4/203.0.113.7/tcp/65536/p2p/{PEER}",
        f"/ip4/203.0.113.7/tcp/４001/p2p/{PEER}",
        f"/ip4/203.0.113.07/tcp/4001/p2p/{PEER}",
        f"/ip4/203.0.113/tcp/4001/p2p/{PEER}",
        f"/ip6/fe80::1%eth0/tcp/4001/p2p/{PEER}",
        f"/dns4/-x/tcp/4001/p2p/{PEER}",
        f"/dns4/{'a' * 300}/tcp/4001/p2p/{PEER}",
        f"/unix/tmp/tcp/4001/p2p/{PEER}",
        "/ip4/203.0.113.7/tcp/4001",
        f"/ip4/203.0.113.7/tcp/4001/p2p/{PEER}/p2p/{PEER}",
        f"/ip4/203.0.113.7/tcp/4001/p2p/{PEER}/x",
        f"/ip4/203.0.113.7/tcp/4001/p2p/{PEER}/p2p-circuit/p2p/Qm{'a' * 44}",
    ],
)
def test_invalid_addresses_are_rejected(address: str) -> None:
    assert not is_address(address)


@settings(deadline=None)
@given(st.text(max_size=200) | st.text("0123456789abcdef@/\x1b", max_size=200).filter(lambda text: "@/" in text))
def test_hostile_text_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(SwarmError) as caught:
        parse("swarm1:" + text)
    assert "\x1b" not in caught.value.message
