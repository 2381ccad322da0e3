"""``policy``: a server that this node pushes its weights to, and that samples from them.

Token ids and log-probabilities come back, so that the loss can correct for the steps taken since. Nothing that the
server says about itself is believed: what it answers is compared with this machine's own log-probabilities.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from hivemind_exp.errors import ProviderError
from hivemind_exp.events import Emit, NoteEvent, OffloadEvent, WarningEvent
from hivemind_exp.journal.records import StageRun
from hivemind_exp.offload.api.chat import check_sdk
from hivemind_exp.offload.api.engines import inference_engine, open_server
from hivemind_exp.offload.api.faults import RequestFailed
from hivemind_exp.offload.api.policy_server import Advice, PushFailed, Sampling
from hivemind_exp.offload.loss_descriptions import describe_loss
from hivemind_exp.offload.replicas import PromptRequest, Pushed, ReplicaAnswer, Replicas
from hivemind_exp.offload.rules import check_offload
from hivemind_exp.offload.settings import LOCAL, Endpoint, first_endpoint, hosts_of, replica_endpoints
from hivemind_exp.rollouts.types import Group, Prompt, Rollout, decode_completion, encode_completion
from hivemind_exp.seeds import derive_seed
from hivemind_exp.source_kinds import POLICY_SERVER, Kind
from hivemind_exp.sources.adapter_versions import AdapterVersions, Tokens, adapter_folder
from hivemind_exp.sources.local import end_ids
from hivemind_exp.sources.policy_server_check import MOST_TOKENS, ROWS, Cause, ServerCheck, remedy
from hivemind_exp.sources.pushed_weights import on_servers, remembered
from hivemind_exp.sources.pushes import Pushes
from hivemind_exp.sources.schedule import rounds_ahead
from hivemind_exp.sources.source import Ask, NodeParts, Source
from hivemind_exp.sources.turns import GpuTurns, take_turns
from hivemind_exp.sources.weight_versions import versions_of
from hivemind_exp.stop import POLL_S, StopFlag

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DOCTOR = "swarmctl doctor api"
_TEACHER = "swarmctl run --set offload.kind=teacher"
REST_S = 30.0
"""How long a server that failed is not asked, if this machine can generate instead."""
_Key = tuple[StageRun, str]
"""A stage, and a question's digest."""


@dataclass
class _Wanted:
    """Completions that were asked for."""

    prompt: Prompt
    places: tuple[int, ...]
    serial: int
    """The last push before."""
    answer: Future[ReplicaAnswer]


@dataclass(eq=False)
class PolicyServerSource(Source):
    """Pushes the weights when they have changed and completions are wanted, and asks for them early."""

    name = POLICY_SERVER
    kind = Kind.POLICY

    _endpoint: Endpoint
    _hosts: str
    _replicas: Replicas
    _adapters: AdapterVersions
    _tokenizer: PreTrainedTokenizerBase
    _sampling: Sampling
    _seed: int
    _prefix: str
    _advice: Advice
    """The engine's."""
    _falls_back: bool
    """Whether this machine generates while the server cannot."""
    _stop: StopFlag
    _emit: Emit
    _version: int = 0
    _moved: bool = True
    """Whether the weights have changed since the last push."""
    _pushes: Pushes = field(default_factory=Pushes)
    _wanted: dict[_Key, _Wanted] = field(default_factory=dict)
    _checks: dict[int, ServerCheck] = field(default_factory=dict)
    """By replica."""
    _told: dict[int, Cause | None] = field(default_factory=dict)
    """By replica: what was last reported."""
    _push_problem: str | None = None
    """Why the last push failed; None if it succeeded."""
    _answered: bool = False
    """Whether the server has answered in this run."""
    _down_until: float | None = None
    """When a server that failed is asked again (``time.monotonic``). None: it has not failed."""
    _turns: GpuTurns | None = None
    """Lets the servers and this machine take turns. None: the servers are always awake."""

    def start(self, loss: str, node: str) -> None:
        """Connect to the servers, and unload what earlier runs of this node left there.

        ``loss``: what is learned. ``node``: how the names of the node's adapters begin. Raises ``ProviderError`` if a
        server does not answer and no fallback is allowed.
        """
        chat = self._endpoint.chat
        self._emit(
            OffloadEvent(
                provider=self._endpoint.name,
                model=self._endpoint.model,
                host=self._hosts,
                kind=self.kind,
                loss=loss,
                training=chat.training,
                usd_per_million_input=0.0,
                usd_per_million_output=0.0,
                usd_total=0.0,
            )
        )
        try:
            self._replicas.start(node)
        except RequestFailed as fault:
            if not self._falls_back:
                raise ProviderError(f"{self._endpoint.label} {_why(fault)}", next=_DOCTOR) from fault
            self._fail(fault)
            return
        if self._turns is not None:
            self._turns.sleep()

    def weights_moved(self, version: int) -> None:
        self._version, self._moved = version, True
        self._adapters.moved()

    def request(self, ask: Ask) -> None:
        """Push the weights if they have changed, and ask for the empty slots that are not asked for yet.

        A server that takes turns is asked when its completions are collected.
        """
        if self._turns is None:
            self._ask(ask)

    def _rests(self) -> bool:
        """Whether this machine generates because a server has just failed."""
        return self._down_until is not None and self._falls_back and time.monotonic() < self._down_until

    def _ask(self, ask: Ask) -> None:
        new = [
            (prompt, places)
            for prompt, places in ask.empty
            if (ask.stage_run, prompt.question.digest) not in self._wanted
        ]
        if not new or self._rests():
            return
        self._push()
        run = ask.stage_run
        for prompt, places in new:
            seed = derive_seed(
                self._seed, f"serve {run.stage} {run.chunk} {prompt.question.digest} {places}", run.round
            )
            key = hashlib.sha256(str(prompt.ids).encode()).hexdigest()
            answer = self._replicas.ask(PromptRequest(key, prompt.ids, len(places), seed))
            self._wanted[run, prompt.question.digest] = _Wanted(prompt, places, self._pushes.last, answer)

    def collect(self, ask: Ask) -> list[list[Group]]:
        """Return the completions of a stage, checked.

        If the server fails, its slots stay empty, for this machine; without ``fallback``, the node waits for it.
        """
        for key in [key for key in self._wanted if key[0].round < ask.stage_run.round]:  # a round that was missed
            self._wanted.pop(key).answer.cancel()
        while True:
            found, failed = self._await(ask)
            done = [each for each in found.values() if each.answer.done()]
            failed += [error for each in done if (error := each.answer.exception()) is not None]
            if failed:
                self._fail(failed[0])
            self._report_pushes()
            if not failed or self._falls_back:
                for late in found.values():  # else it would delay pushes, and later requests
                    late.answer.cancel()
                answered = [each for each in done if each.answer.exception() is None]
                if answered and not failed:
                    self._recover()
                return [self._groups(answered)] if answered else []
            self._pause()
            kept = {key: each for key, each in found.items() if each not in done or each.answer.exception() is None}
            self._wanted.update(kept)
            self.request(ask)

    def close(self) -> None:
        self._replicas.close()

    def _await(self, ask: Ask) -> tuple[dict[_Key, _Wanted], list[BaseException]]:
        """Return what a stage asked for, until its deadline; and why a server did not wake up for it, if so."""
        keys = [(ask.stage_run, prompt.question.digest) for prompt, _ in ask.empty]

        def wait() -> dict[_Key, _Wanted]:
            self._stop.wait_for([self._wanted[key].answer for key in keys if key in self._wanted], ask.deadline)
            return {key: self._wanted.pop(key) for key in keys if key in self._wanted}

        if self._turns is None:
            return wait(), []
        if not keys or self._rests():
            return {}, []
        try:
            with self._turns.awake():
                self._ask(ask)
                found = wait()
                for late in found.values():  # a server that falls asleep would cut it short
                    late.answer.cancel()
                self._stop.wait_for(self._pushes.futures())
        except RequestFailed as fault:
            return {}, [fault]
        return {key: each for key, each in found.items() if not each.answer.cancelled()}, []

    def _push(self) -> None:
        """Send the weights, unless the last push has them or too many are under way. Returns immediately."""
        if (not self._moved and self._pushes.error() is None) or self._pushes.under_way >= self._adapters.most_pushes:
            return
        self._moved = False
        asked = {self._pushes.last, *(each.serial for each in self._wanted.values())}
        needed = frozenset().union(*map(self._pushes.answering, asked))
        serial = self._pushes.begin()
        weights = self._adapters.remember(serial, needed)
        pushed = Pushed(serial, self._version, f"{self._prefix}{serial}-v{self._version}")
        self._pushes.track(self._replicas.push(pushed, partial(self._adapters.write, weights)))

    def _report_pushes(self) -> None:
        """Warn about pushes that failed, once per reason. Until the next push, the server has older weights.

        In an outage, which is reported itself, every push fails.
        """
        for error in self._pushes.ended():
            problem = None if error is None else _why(error)
            if problem not in (None, self._push_problem) and self._down_until is None:
                text = f"{self._endpoint.label} {problem}. Until the next push, it has older weights"
                self._warn("policy_push", text)
            self._push_problem = problem

    def _pause(self) -> None:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            self._stop.check()
            time.sleep(POLL_S)

    def _fail(self, error: BaseException) -> None:
        """Report an outage once. Raises ``ProviderError`` if the server never took this node's weights."""
        if isinstance(error, PushFailed):
            error = self._pushes.error() or error
        if not isinstance(error, RequestFailed | PushFailed):
            raise error
        if isinstance(error, PushFailed) and error.remedy is not None and not self._answered:
            raise ProviderError(f"{self._endpoint.label} {_why(error)}", next=_DOCTOR)
        if self._down_until is None:
            fallback, instead = (LOCAL, "falling back to this machine") if self._falls_back else (None, "waiting")
            message = f"{self._endpoint.label} {_why(error)}; {instead} until {self._endpoint.name} is available again"
            self._emit(
                WarningEvent(code="provider_down", message=message, provider=self._endpoint.name, fallback=fallback)
            )
        self._down_until = time.monotonic() + REST_S

    def _recover(self) -> None:
        self._answered = True
        if self._down_until is not None:
            self._down_until = None
            self._warn("provider_back", f"{self._endpoint.label} is available again")

    def _groups(self, answered: Sequence[_Wanted]) -> list[Group]:
        """Return the groups of answers. What their completions count as depends on the comparison."""
        together: dict[tuple[int, int], list[tuple[_Wanted, ReplicaAnswer]]] = defaultdict(list)
        for wanted in answered:
            served = wanted.answer.result()
            together[served.replica, served.pushed.serial].append((wanted, served))
        groups = []
        with self._adapters.comparing():
            # By push, because one that is not the newest is copied into the model.
            for (replica, _), members in sorted(together.items(), key=lambda each: each[0][::-1]):
                cause = self._examine(replica, members)
                if cause is not Cause.OTHER_MODEL:
                    groups += [self._group(wanted, served, trusted=cause is None) for wanted, served in members]
        return groups

    def _group(self, wanted: _Wanted, served: ReplicaAnswer, *, trusted: bool) -> Group:
        rows = []
        for row in served.answer.rows:
            text = decode_completion(self._tokenizer, row.ids)
            truncated = row.ids[-1] not in self._sampling.end_ids
            rollout = Rollout(
                Kind.POLICY,
                self._endpoint.name,
                text,
                row.ids,
                truncated,
                lag=self._version - served.pushed.version,
                behaviour_logps=row.logps,
            )
            if not trusted:
                ids = encode_completion(self._tokenizer, text, truncated)
                rollout = replace(rollout, kind=Kind.POLICY_TEXT, ids=ids, lag=None, behaviour_logps=None)
            rows.append(rollout)
        return Group(wanted.prompt, tuple(rows), places=wanted.places)

    def _examine(self, replica: int, members: Sequence[tuple[_Wanted, ReplicaAnswer]]) -> Cause | None:
        """Return why the answers of one push and replica are not this node's; None if they are. Reports changes."""
        serial = members[0][1].pushed.serial
        if not all(served.answer.same_prompt for _, served in members):
            return self._report(replica, Cause.OTHER_PROMPT, None)
        pairs = [(wanted.prompt.ids, row) for wanted, served in members for row in served.answer.rows][:ROWS]
        rows: list[Tokens] = [(prompt, row.ids[:MOST_TOKENS]) for prompt, row in pairs]
        theirs = [row.logps[:MOST_TOKENS] for _, row in pairs]
        check = self._checks.setdefault(replica, ServerCheck(self._sampling.temperature))
        earlier = [each for each in self._adapters.serials if each < serial]
        found = check.compare(
            theirs, lambda which, temperature: self._adapters.logps(which, rows, temperature), serial, earlier
        )
        return self._report(replica, found.cause, found.distance)

    def _report(self, replica: int, cause: Cause | None, distance: float | None) -> Cause | None:
        if replica in self._told and self._told[replica] == cause:
            return cause
        self._told[replica] = cause
        url = self._replicas.urls[replica]
        apart = "" if distance is None else f" (log-probabilities differ by {distance:.2g} nats per token)"
        if cause is None:
            message = f"{url} samples from this node's weights{apart}: its completions count as policy"
            self._emit(NoteEvent(code="policy_served", message=message))
            return None
        advice = remedy(cause, self._advice)
        if cause is Cause.OTHER_MODEL:
            if not self._falls_back:
                raise ProviderError(f"{url} {cause}{apart}. {advice}", next=_TEACHER)
            self._down_until = math.inf
            self._warn("policy_other", f"{url} {cause}{apart}, so this machine generates instead. {advice}")
        else:
            self._warn("policy_other", f"{url} {cause}{apart}, so its completions count as policy_text. {advice}")
        return cause

    def _warn(self, code: str, message: str) -> None:
        self._emit(WarningEvent(code=code, message=message, provider=self._endpoint.name))


def _why(error: BaseException) -> str:
    """Return why a server cannot be used, as a clause whose subject is the server."""
    if isinstance(error, PushFailed):
        return f"{error}. {error.remedy[:-1]}" if error.remedy else str(error)
    return f"is unavailable: {error}"


def build(parts: NodeParts) -> PolicyServerSource | None:
    """Connect to the servers. Raises ``NodeError`` if the settings cannot work, or if no fallback is allowed."""
    config, model, tokenizer = parts.config, parts.model, parts.tokenizer
    if model is None or tokenizer is None:
        return None
    check_offload(config)
    check_sdk()
    assert parts.files is not None
    endpoint, endpoints = first_endpoint(config), replica_endpoints(config)
    folder, node = adapter_folder(config, parts.files)
    sampling = Sampling(
        config.generation.temperature,
        config.generation.max_completion_tokens,
        tuple(end_ids(model, tokenizer)),
        model.config.get_text_config().vocab_size,
    )
    ahead, whole = rounds_ahead(config), config.model.lora is None
    advice = inference_engine(config).advice
    servers = Replicas(
        lambda: [open_server(config, each) for each in endpoints],
        sampling,
        folder,
        config.offload.serving.server_folder or str(folder),
        on_servers(ahead, whole=whole),
        config.offload.limits.concurrency,
        [each.base_url for each in endpoints],
        replaces=whole,
    )
    falls_back = LOCAL in config.offload.fallback
    source = PolicyServerSource(
        endpoint,
        hosts_of(endpoints),
        servers,
        versions_of(parts, remembered(ahead)),
        tokenizer,
        sampling,
        config.node.seed,
        f"{node}{secrets.token_hex(3)}-",
        replace(advice, adapters=advice.reloads) if whole else advice,
        falls_back,
        parts.stop,
        parts.emit,
        _turns=take_turns(parts, servers, endpoint),
    )
    source.start(describe_loss(config), node)
    return source
