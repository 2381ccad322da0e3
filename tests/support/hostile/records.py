"""Parse announcements in one step. (The product checks their signatures only after everything else.)"""

from __future__ import annotations

from hivemind_exp.swarm.announcement import Announcement, check_signature, read


def unpack(record: bytes, swarm: str, now: float) -> Announcement:
    """Return the announcement in ``record``, signed by its peer for this swarm. Raises RecordRefused otherwise."""
    announcement = read(record, now)
    check_signature(record, announcement, swarm)
    return announcement
