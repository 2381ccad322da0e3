"""What a setting changes, observed cheaply: the tensors of a step, a played round, requests, files and messages.

Each observer takes a configuration and an empty directory, and returns something that can be compared.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from hivemind_exp.config import Config, charter_id
from hivemind_exp.errors import NodeError
from hivemind_exp.game.prompt_style import build_chats, configured
from hivemind_exp.game.sampling.game import build_prompts
from hivemind_exp.hub import pusher
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest, StageRun
from hivemind_exp.models.device import resolve_compute
from hivemind_exp.models.loading import adapter_config, load_tokenizer, locate
from hivemind_exp.models.tiny import build_model, build_tokenizer, warm_up
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.rollouts.types import Group, Prompt, Rollout
from hivemind_exp.runner.build_swarm import SwarmSession
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.runner.open_game import open_game
from hivemind_exp.source_kinds import POLICY_SERVER, Kind
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.sources.registry import SOURCES, SourceEntry
from hivemind_exp.sources.source import Ask, NodeParts, Source
from hivemind_exp.stop import StopFlag
from hivemind_exp.swarm import addresses
from hivemind_exp.swarm.dht import daemon as p2p_daemon
from hivemind_exp.swarm.dht import overlay
from hivemind_exp.tasks.base import Question, Score
from hivemind_exp.tasks.registry import expand
from hivemind_exp.tasks.seed_sequence import Sequence64
from hivemind_exp.trainer.advantages import build_rows, count_tokens
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from swarmctl.keys.for_run import keys_for
from swarmctl.terminal.prompter import Prompter
from tests.support.nodes import ChanceRewards, Events
from tests.support.spelling_task import Spelling

Observer = Callable[[Config, Path], Any]


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return a hash of tensors."""
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        whole.update(name.encode() + tensor.detach().float().numpy().tobytes())
    return whole.hexdigest()


def message(config: Config, root: Path, *, of: Callable[[Config, Path], Any]) -> str:
    """Return the error that ``of`` raises, or what it returns."""
    try:
        return str(of(config, root))
    except NodeError as error:
        return f"{type(error).__name__}: {error.message}"


_LOGPS = (-9.0, -9.0, -0.1)


def _group(kinds: Sequence[tuple[Kind, float, int | None]], number: int) -> Group:
    prompt = Prompt(Question("t", "train", 0, number, "q", {}, f"d{number}", "k"), "answer", (), (5, 6, 7))
    rows = tuple(
        Rollout(kind, kind.value, "", (7 + place, 8, 9 + number), False, lag, behaviour_logps=_LOGPS)
        if kind is Kind.PEER
        else Rollout(kind, kind.value, "", (7 + place, 8, 9 + number), False, lag)
        for place, (kind, _, lag) in enumerate(kinds)
    )
    return Group(prompt, rows, tuple(Score(outcome, True, "") for _, outcome, _ in kinds))


GROUPS = [
    _group([(Kind.POLICY, 1.0, 0), (Kind.POLICY, 0.0, 0), (Kind.POLICY, 0.0, 2), (Kind.TEACHER, 1.0, 0)], 0),
    _group([(Kind.PEER, 1.0, None), (Kind.PEER, 0.0, None), (Kind.PEER, 0.0, None)], 1),
]


def stepped(config: Config, root: Path) -> tuple[str, str, int]:
    """Take two steps on rows of each kind of source.

    Returns hashes of the weights and of log-probabilities under them, and the number of forward passes for those.
    """
    compute = resolve_compute(config.model)
    tokenizer = build_tokenizer()
    step_trainer = SourceGRPOTrainer(
        build_model(tokenizer, 0),
        tokenizer,
        config,
        root,
        device="cpu",
        dtype=compute.dtype,
        reference=build_model(tokenizer, 0),
        peft_config=adapter_config(config.model.lora),
    )
    rows, tokens = tuple(build_rows(GROUPS, config.train, {})), count_tokens(GROUPS, config.train)
    for step in range(2):
        step_trainer.step(Manifest(step, 0, step, 8, rows, tokens=tokens))
    passes: list[None] = []
    handle = step_trainer.policy.get_input_embeddings().register_forward_hook(lambda *_: passes.append(None))
    logps = step_trainer.log_probabilities(rows)
    handle.remove()
    weights = digest(dict(step_trainer.policy.named_parameters()))
    return weights, digest({"logps": torch.tensor(logps)}), len(passes)


def warmed(config: Config, _root: Path) -> str:
    """Return a hash of the tiny model's weights after its warm-up."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, 0)
    prompts = build_prompts(Spelling().questions("train", 0, 4), tokenizer)
    warm_up(model, tokenizer, prompts, config.warmup, seed=1, progress=lambda *_: None, should_stop=lambda: False)
    return digest(model.state_dict())


class _Recorder(Source):
    """Stands in for an API: records requests and never answers."""

    name, kind = "recorder", Kind.POLICY
    requests: list[tuple[int, str, int]]

    def __init__(self, _parts: NodeParts) -> None:
        _Recorder.requests = []

    def request(self, ask: Ask) -> None:
        run = ask.stage_run
        self.requests.extend((run.round, run.stage, len(places)) for _, places in ask.empty)

    def collect(self, _ask: Ask) -> tuple[list[Group], ...]:
        return ()


def played(config: Config, root: Path) -> dict[str, Any]:
    """Run a node in this process. Returns what it did, by name."""
    root.mkdir(exist_ok=True)
    events, batches, threads = Events(), [], torch.get_num_threads()
    generate = LocalSource._batch

    def counted(
        self: LocalSource, prompts: Sequence[Prompt], rooms: Sequence[int], *, sample: bool, size: int
    ) -> list[Rollout]:
        batches.append((len(prompts), sample))
        return generate(self, prompts, rooms, sample=sample, size=size)

    with patch.dict(SOURCES, {POLICY_SERVER: SourceEntry(_Recorder)}), patch.object(LocalSource, "_batch", counted):
        runner = GRPORunner(config, NodeFiles(root), events, make_tasks=lambda *_: ChanceRewards())
        error = None
        try:
            runner.run()
        except NodeError as caught:
            error = caught.message
        used = torch.get_num_threads()
        torch.set_num_threads(threads)
    assert events.of("start") or error is None, error
    start = events.of("start")[0]
    return {
        "name": start["node"],
        "rounds": runner.progress.round,
        "steps": [event["stage"] for event in events.of("step")],
        "counts": [event["count"] for event in events.of("rollouts")],
        "tokens": [event["tokens"] for event in events.of("rollouts")],
        "evaluations": [event["round"] for event in events.of("eval")],
        "questions": [event["questions"] for event in events.of("eval")],
        "checkpoints": [event["round"] for event in events.of("checkpoint")],
        "kept": len(list((root / "checkpoints").glob("*"))),
        "batches": batches,
        "threads": used,
        "journaled": _journaled(root),
        "error": error,
        "files": sorted(path.name for path in root.iterdir()),
        "requests": list(_Recorder.requests) if config.offload.provider != "off" else [],
    }


def _journaled(root: Path) -> list[int]:
    """Return the rounds whose completions are in a node's journal."""
    with closing(sqlite3.connect(root / "journal.sqlite")) as database:
        return [round_ for (round_,) in database.execute("SELECT DISTINCT round FROM completions ORDER BY round")]


def part(name: str) -> Observer:
    """Return an observer of one part of what a node did."""

    def observe(config: Config, root: Path) -> Any:
        return played(config, root)[name]

    return observe


def prompted(config: Config, root: Path) -> list[str]:
    """Return the stages of the configured game, and its first prompt."""
    root.mkdir(exist_ok=True)
    tokenizer = build_tokenizer()
    with closing(Journal(root / "journal.sqlite", "swarm")) as journal:
        chats = build_chats(configured(config.prompt), Spelling())
        game, _ = open_game(config, tokenizer=tokenizer, tasks=Spelling(), journal=journal, chats=chats)
        prompts = game.prompts(StageRun(0, game.stages[0]), Spelling().questions("train", 0, 1))
    return [*game.stages, str(prompts[0].messages)]


def located(config: Config, _root: Path) -> int | None:
    """Return the number of the model's parameters."""
    return locate(config.model).parameters


def prompt_ids(config: Config, _root: Path) -> tuple[int, ...]:
    """Return the token ids of a prompt."""
    tokenizer = load_tokenizer(config.model)
    return build_prompts(Spelling().questions("train", 0, 1), tokenizer)[0].ids


def chosen_device(config: Config, root: Path) -> str:
    """Return the device, or why it cannot be used."""
    return message(config, root, of=lambda *_: resolve_compute(config.model).device)


def asked(config: Config, _root: Path) -> str:
    """Return a question of the first task, and the credit of two answers."""
    [(spec, _), *_] = expand(config.tasks)
    task = importlib.import_module(spec.module).build(spec)
    task.prepare("make")
    text, entry = task.make(1)
    task.prepare("verify")
    return f"{text} {task.score('2/4', entry)}"


def mixed(config: Config, _root: Path) -> list[float]:
    """Return the tasks' shares. ``test_questions_follow_the_weights`` draws questions with them."""
    return [weight for _, weight in expand(config.tasks)]


def keyed(config: Config, root: Path) -> Mapping[str, str]:
    """Return a run's keys if a variable and a file have different ones."""
    root.mkdir(exist_ok=True)
    file = root / "key"
    file.write_text("sk-from-a-file-0123456789")
    file.chmod(0o600)
    variables = {"OPENAI_API_KEY": "sk-from-a-variable-0123456789", "SWARMCTL_OPENAI_API_KEY_FILE": str(file)}
    return keys_for(config, Prompter(silent=True), variables).secrets


def pushed(config: Config, root: Path) -> list[Any]:
    """Return how the repository is created, and the rounds after which a model is pushed."""
    root.mkdir(exist_ok=True)
    created: list[Any] = []

    class Api:
        def __init__(self, **_: Any) -> None:
            pass

        def create_repo(self, repo: str, **how: Any) -> None:
            created.append((repo, how))

    with patch.object(pusher, "HfApi", Api):
        made = pusher.HubPusher(config.hub, pusher.Outbox(root / "hub"), "token", Events())
        made.finish(StopFlag())
    return [*created, [round_ for round_ in range(1, 7) if made.due(round_, last=False)]]


def first_seed(config: Config, _root: Path) -> int:
    """Return the seed of the first question of the node's swarm."""
    return Sequence64(charter_id(config).encode(), "train").at("item", "t", 0, 0)


def swarm_rules(config: Config, _root: Path) -> int:
    """Return how many of the peers' groups a step learns from."""
    session: Any = SimpleNamespace(
        config=config,
        charter=SimpleNamespace(id="s", is_open=False, curriculum=False),
        node=SimpleNamespace(peer_id="p"),
    )
    return SwarmSession._rules(session).external


def listens(config: Config, root: Path) -> tuple[int, tuple[str, ...], str]:
    """Return the node's port, its addresses for peers, and the interface that it listens on."""
    root.mkdir(exist_ok=True)
    with addresses.take(0, root / "port", loopback=config.swarm.loopback) as taken:
        interface = str(taken.getsockname()[0])
    (root / "port").write_text("4001")
    return addresses.kept_port(root, config.swarm), addresses.own_addresses("p", 1, config.swarm), interface


def daemon(config: Config, root: Path) -> Any:
    """Return the options with which the swarm's daemon is started."""
    given: dict[str, Any] = {}

    class Daemon:
        @classmethod
        async def create(cls, **options: Any) -> Any:
            given.update(options)
            raise RuntimeError

    network = overlay.Overlay.__new__(overlay.Overlay)
    with patch.object(p2p_daemon, "P2P", Daemon):
        try:
            asyncio.run(network.open(root / "key", 4001, config.swarm))
        except RuntimeError:
            return {name: value for name, value in given.items() if name != "identity_path"}
    raise AssertionError
