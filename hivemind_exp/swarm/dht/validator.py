"""The swarm's rules as hivemind takes them: one validator, on each store and each read."""

from __future__ import annotations

from hivemind.dht.validation import DHTRecord, RecordValidatorBase

from hivemind_exp.swarm.announcement_book import Book


class AnnouncementValidator(RecordValidatorBase):  # type: ignore[misc]
    """Lets announcements through that the book takes, and nothing else. Never raises, never hangs."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def validate(self, record: DHTRecord) -> bool:
        return self._book.judge(record.key, record.subkey, record.value, record.expiration_time)
