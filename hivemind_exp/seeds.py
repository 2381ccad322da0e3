"""Seeds that follow from names, so that nothing depends on what ran before."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2^32) that follows from the parts: SHA-256 over their unambiguous text."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
