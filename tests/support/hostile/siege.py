"""Run all attacks at once and repeatedly, by members and by an outsider who knows only addresses."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgpack
from hivemind.proto import dht_pb2
from hivemind.utils import MSGPackSerializer

from hivemind_exp.swarm.announcement import shard_key, shard_of
from hivemind_exp.swarm.charter import Charter
from tests.support.hostile.arena import Honest, make_tasks
from tests.support.hostile.attacks import ATTACKS
from tests.support.hostile.hostile_node import Hostile
from tests.support.hostile.villain import REFUSALS, Field, Villain

TOGETHER = (
    ("forged_owner", "replayed_and_reordered", "undecodable_values", "plain_over_dictionary", "ten_years_ahead"),
    ("ten_thousand_subkeys", "thousand_identities"),
    ("zip_bomb", "bad_msgpack", "bad_utf8"),
    ("truth_overwritten", "inflated_rewards"),
    ("closing_marks", "code_in_answers", "endless_numbers"),
)
"""Attacks that one villain plays in turn. Each other attack has its own villain."""
_PAUSE_S = 2.0
"""A villain's pause after each attack. Nodes fetch bundles once per round, so more attacks would only cost time."""


def outsider(stranger: Hostile, nodes: Sequence[Honest], told: Counter[tuple[str, str]]) -> None:
    """Send every request of members as an outsider who knows only addresses."""
    for node in nodes:
        stranger.connect(node)  # type: ignore[arg-type]
        record, word = stranger.record()
        key = shard_key(stranger.swarm, shard_of(word.peer))
        store = dht_pb2.StoreRequest(
            keys=[key],
            subkeys=[MSGPackSerializer.dumps(word.peer)],
            values=[msgpack.packb(record)],
            expiration_time=[word.expires],
            in_cache=[False],
        )
        for name, request in (
            ("ping", dht_pb2.PingRequest(peer=stranger.info)),
            ("find", dht_pb2.FindRequest(keys=[key], peer=stranger.info)),
            ("store", store),
        ):
            for sign in (True, False):
                try:
                    stranger.ask(node, name, request, sign=sign)  # type: ignore[arg-type]
                except REFUSALS:
                    told["outsider", "refused"] += 1
                else:
                    told["outsider", "taken"] += 1


class Siege:
    """Repeats the given attacks from ``begin`` until its block ends. A context manager."""

    def __init__(self, root: Path, nodes: Sequence[Honest], rules: Charter, names: Sequence[str]) -> None:
        self.field = Field(nodes, rules, make_tasks(rules.id))
        self._names, self._root = names, root
        self._begun, self._end = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self.villains: dict[str, Villain] = {}
        self.failures: list[BaseException] = []

    @property
    def told(self) -> Counter[tuple[str, str]]:
        return self.field.told

    @property
    def peer_ids(self) -> frozenset[str]:
        return frozenset(villain.peer_id for villain in self.villains.values())

    def __enter__(self) -> Siege:
        self.field.questions(0)
        together = [tuple(name for name in names if name in self._names) for names in TOGETHER]
        alone = [(name,) for name in self._names if not any(name in names for names in together)]
        self._threads = [
            threading.Thread(target=self._play, args=(names,), daemon=True) for names in (*together, *alone) if names
        ]
        for thread in self._threads:
            thread.start()
        return self

    def begin(self) -> None:
        """Start the attacks. Until then the villains have joined and do nothing."""
        self._begun.set()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._begun.set()
        for thread in self._threads:
            thread.join(30)
        self.field.tasks.close()

    def _play(self, names: Sequence[str]) -> None:
        try:
            with Villain(self._root / names[0], self.field, names[0]) as villain:
                self.villains[names[0]] = villain
                while not villain.meet() and not self._end.wait(0.5):
                    pass
                self._begun.wait()
                for stage_run in range(10_000):
                    for name in names:
                        villain.attack = name
                        ATTACKS[name](villain, stage_run)
                        villain.count("played")
                        villain.round += 1
                        if self._end.wait(_PAUSE_S):
                            return
        except BaseException as error:  # noqa: BLE001 - recorded for the test
            self.failures.append(error)
