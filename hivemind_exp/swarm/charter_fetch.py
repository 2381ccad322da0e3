"""Fetching a swarm's charter from its peers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from hivemind_exp.errors import SwarmError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.patience import patient
from hivemind_exp.swarm.charter import Charter
from hivemind_exp.swarm.clock_skew import apart
from hivemind_exp.swarm.contacts import Contacts
from hivemind_exp.swarm.membership_proof import WINDOW_S
from hivemind_exp.swarm.transfer.peer_transfers import FetchFailed, PeerTransfers, TransferKind

if TYPE_CHECKING:
    from hivemind_exp.swarm.dht.overlay import Overlay


async def find_charter(
    swarm: str, contacts: Contacts, transfers: PeerTransfers, current: Callable[[], Overlay | None], timeout: float
) -> bytes:
    """Fetch the signed charter of a swarm from one of its peers, and check its hash and signature.

    ``current`` returns the overlay, or None while there is none. Raises SwarmError if no peer sent it within
    ``timeout`` seconds.
    """
    why = "no peer to ask"
    with contextlib.suppress(TimeoutError):
        async with patient(timeout):
            while peers := contacts.peers:
                for peer in peers:
                    if (overlay := current()) is None:
                        break
                    try:
                        if not await contacts.connect(overlay, peer):
                            raise FetchFailed("cannot be reached")
                        envelope = await transfers.fetch(overlay, peer, TransferKind.CHARTER, bytes(32))
                        Charter.open(envelope, swarm)
                        return envelope
                    except FetchFailed as error:
                        why = f"peer {peer[-6:]}: {foreign(error)}"
                        await overlay.ping(peer)
                        if abs(ahead := overlay.skews.of(peer)) > WINDOW_S:  # it refuses all other requests
                            why = f"this machine's clock is {apart(ahead)} that of peer {peer[-6:]}; synchronize both"
                    except SwarmError as error:
                        why = f"peer {peer[-6:]}: {error.message}"
                await asyncio.sleep(1.0)
    raise no_charter(why)


def no_charter(why: str) -> SwarmError:
    """Return the error for a node that could not fetch its swarm's charter."""
    return SwarmError(
        f"cannot fetch the swarm's charter from its peers ({why})",
        next="swarmctl doctor swarm",
    )
