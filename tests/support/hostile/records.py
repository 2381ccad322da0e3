"""Announcements, read whole at once: the product checks their signatures only once all else is right."""

from __future__ import annotations

from hivemind_exp.swarm.announcement import Announcement, check_signature, read


def unpack(record: bytes, swarm: str, now: float) -> Announcement:
    """Return what ``record`` says, signed by its peer for this swarm. Raises RecordRefused whatever else it is."""
    announcement = read(record, now)
    check_signature(record, announcement, swarm)
    return announcement
