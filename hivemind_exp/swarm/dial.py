"""Find out whether a peer's port is open, before the daemon dials it.

After n failed dials, libp2p refuses to dial an address again for 5 + n² s, up to five minutes (``DialBackoff``
in go-libp2p's swarm), and p2pd has no request that ends this. A swarm would need minutes to reconnect after a network
outage. The daemon therefore dials only ports that accept connections.
"""

import asyncio
import contextlib
from collections.abc import Iterable

from hivemind_exp.patience import patient

PROBE_S = 3.0
"""How long to wait for a port. Within that time, TCP sends its first packet three times."""
_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")


async def may_answer(addresses: Iterable[str]) -> bool:
    """Return whether a peer may answer at one of its multiaddrs, because a port is open or cannot be tried."""
    ports = [plain_port(address) for address in addresses]
    if not ports or None in ports:
        return True  # the daemon may know another way, such as a relay
    trials = [asyncio.ensure_future(_is_open(*port)) for port in dict.fromkeys(ports) if port is not None]
    try:
        for trial in asyncio.as_completed(trials):
            if await trial:
                return True
        return False
    finally:
        for trial in trials:
            trial.cancel()


def plain_port(address: str) -> tuple[str, int] | None:
    """Return a plain TCP address's host and port; None for any other address."""
    match address.split("/"):
        case ["", kind, host, "tcp", port] if kind in _HOSTS and port.isdigit():
            return host, int(port)
    return None


async def _is_open(host: str, port: int) -> bool:
    with contextlib.suppress(OSError, TimeoutError, UnicodeError):
        async with patient(PROBE_S):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
        return True
    return False
