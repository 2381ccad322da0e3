"""The dictionaries of hivemind's DHT, read without trust.

hivemind's own reader follows extension types inside extension types, each on the C stack: 4 KB of them end the
process. It also believes the limits that a dictionary claims for itself, and waits for ever where one cannot be
compared. This one reads what a dictionary of announcements consists of, and nothing else.
"""

import math
from typing import Any

import msgpack
from hivemind.dht.storage import DictionaryDHTValue
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.utils import MSGPackSerializer

from hivemind_exp.swarm.announcement_book import AnnouncementBook

MAX_ENTRIES = 4096
_DICTIONARY = 0x50
"""hivemind's extension type of a dictionary."""


class StrictSerializer:
    """Stands in for hivemind's ``MSGPackSerializer``."""

    @staticmethod
    def dumps(value: object) -> bytes:
        return bytes(MSGPackSerializer.dumps(value))

    @staticmethod
    def loads(content: bytes) -> Any:
        """Return a dictionary, or a plain value. Raises ValueError for everything else."""
        try:
            outer = msgpack.unpackb(content, raw=False, use_list=True)
            if not isinstance(outer, msgpack.ExtType):
                return outer
            if outer.code != _DICTIONARY:
                raise ValueError("an extension type that is no dictionary")
            return _dictionary(msgpack.unpackb(outer.data, raw=False, use_list=True))
        except (msgpack.UnpackException, TypeError, RecursionError) as error:
            raise ValueError("it cannot be decoded") from error


def _need(right: bool, what: str) -> None:
    if not right:
        raise ValueError(what)


def _dictionary(inner: Any) -> DictionaryDHTValue:
    _need(isinstance(inner, list) and len(inner) == 3 and isinstance(inner[2], list), "a dictionary's shape")
    _need(len(inner[2]) <= MAX_ENTRIES, "a dictionary's length")
    with DictionaryDHTValue().freeze() as dictionary:
        for item in inner[2]:
            _need(isinstance(item, list) and len(item) == 3, "an entry's shape")
            key, value, expires = item
            right = isinstance(key, str) and isinstance(value, bytes) and isinstance(expires, float)
            _need(right, "an entry's types")
            _need(math.isfinite(expires), "an entry's expiry")
            dictionary.store(key, value, expires)
    return dictionary


class AnnouncementValidator(RecordValidatorBase):  # type: ignore[misc]
    """Lets announcements through that the book takes, and nothing else. Never raises, never hangs."""

    def __init__(self, book: AnnouncementBook) -> None:
        self._book = book

    def validate(self, record: DHTRecord) -> bool:
        return self._book.judge(record.key, record.subkey, record.value, record.expiration_time)
