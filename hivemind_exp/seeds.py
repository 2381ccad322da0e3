"""Seeds derived from names, so that they do not depend on what ran before."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2^32) derived from the parts: SHA-256 over an unambiguous text form of them."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
