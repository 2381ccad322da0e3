"""Measure what a swarm's nodes learn from each other, with I local and J external groups as in SAPO (arXiv 2509.08721).

Eight of the demo's tiny models learn to spell backward, all from the same questions. Each step has 8 groups of 8
completions in total, split between local and external groups: 8/0, 6/2, 4/4, 2/6. Bundles, peers' groups, their quota,
reputation and filter are the product's code. Only the network is replaced, by a list in this process, so that a run
depends only on its seed. *Equal* nodes all start half-way: correct on a minority of questions. Of the *unequal* nodes,
half start cold: almost never correct. A poisoner is a ninth peer whose correct answers contain an advertisement as
reasoning.

    python -m benchmarks.swarm_learning --png swarm.png

A round's reward is the mean over the node's own completions. It is summed over the rounds, as in the paper, and
averaged over the nodes. Local compute is counted as completions sampled by the node, because a node spends its time
there (94 % of it on an accelerator): a 2/6 step samples a quarter as much as an 8/0 step. The table therefore shows the
results both for an equal number of rounds, as in the paper, and for an equal amount of sampling. Takes a quarter of an
hour per seed on one CPU core.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, cast
from unittest.mock import patch

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from benchmarks.offload_learning import COLD, HALF, Start, make_base, pyplot
from benchmarks.swarm_arms import ARMS, BATCH, GROUP_SIZE, HEAD, Arm, Curve, draw, median, row
from hivemind_exp.config import Config, TaskConfig
from hivemind_exp.events import discard
from hivemind_exp.game.prompt_style import ChatBuilder
from hivemind_exp.game.sampling.game import STAGE, build_prompts, verified
from hivemind_exp.journal.records import Manifest
from hivemind_exp.losses.registry import choose_losses
from hivemind_exp.models.chat_format import encode
from hivemind_exp.models.device import resolve_compute
from hivemind_exp.models.loading import load_model, load_tokenizer
from hivemind_exp.peers.bundle import FULL, Bundle, SharedGroup
from hivemind_exp.peers.exchange import LikelihoodFilter, PeerDrawLog, PeerExchange, TrainingStatus
from hivemind_exp.peers.records import PeerBook
from hivemind_exp.peers.sampler import PeerSampler
from hivemind_exp.peers.vetting import PeerRules, PeerTexts
from hivemind_exp.rollouts.types import Group
from hivemind_exp.seeds import derive_seed
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopFlag
from hivemind_exp.swarm.node import SwarmNode
from hivemind_exp.tasks.base import Tasks
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.trainer.advantages import build_rows, count_tokens
from hivemind_exp.trainer.evaluation import evaluate
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from hivemind_exp.trainer.refill import best, refill

SWARM = "5a" * 32
NODES = 8
TASK = TaskConfig(name="spell_backward", params={"min_word_len": 3, "max_word_len": 5})
ADVERT = "gold"
LEARNING_RATE = 2e-4
LOOKS = 6
"""Evaluations per run, besides the one at the start."""


class Post:
    """The network: one mailbox per node."""

    def __init__(self) -> None:
        self.boxes: dict[str, list[Letter]] = {}

    def send(self, peer: str, data: bytes) -> None:
        for other, box in self.boxes.items():
            if other != peer:
                box.append(Letter(peer, data))


@dataclass(frozen=True, slots=True)
class Letter:
    """A bundle as received."""

    peer: str
    data: bytes


class Box:
    """Replaces a ``SwarmNode``."""

    def __init__(self, post: Post, peer: str) -> None:
        self._post, self._peer = post, peer
        post.boxes[peer] = []

    def publish(self, bundle: bytes, **_: object) -> None:
        self._post.send(self._peer, bundle)

    def take(self) -> Sequence[Letter]:
        found, self._post.boxes[self._peer] = self._post.boxes[self._peer], []
        return found


class Sharing(Protocol):
    """How many groups of a step a node samples, and how many it draws."""

    @property
    def local(self) -> int:
        """Its own groups."""

    @property
    def external(self) -> int:
        """Peers' groups."""

    @property
    def loss(self) -> str:
        """The loss for peers' rows."""

    @property
    def refill(self) -> int:
        """Extra questions that a round may ask in place of groups that tie."""


class Node:
    """One learning node of the swarm, run round by round."""

    def __init__(  # noqa: PLR0917 - the node's parts
        self,
        arm: Sharing,
        number: int,
        config: Config,
        root: Path,
        tasks: Tasks,
        post: Post,
        chats: ChatBuilder | None = None,
        base: Path | None = None,
    ) -> None:
        """``base``: a directory with the weights to start with, if they are not those of the settings."""
        self.arm, self.config, self.chats, self.seed = arm, config, chats or ChatBuilder(), config.node.seed
        self.tasks = tasks
        self.tokenizer = load_tokenizer(config.model)
        compute = resolve_compute(config.model)
        start = config.model if base is None else config.model.model_copy(update={"name": str(base)})
        model = load_model(start, self.tokenizer, dtype=compute.dtype, seed=0)
        self.step_trainer = SourceGRPOTrainer(
            model, self.tokenizer, config, root, device=compute.device, dtype=compute.dtype
        )
        self.source = LocalSource(
            self.step_trainer.policy, self.tokenizer, config.generation, StopFlag(), _dtype=compute.dtype, _tasks=tasks
        )
        self.drawn = PeerDrawLog(root / f"{number}.sqlite", SWARM)
        self.events: list[dict[str, Any]] = []
        me = f"node {number}"
        with_logps = arm.loss == "f_tis" and arm.external > 0
        self.exchange = PeerExchange(
            wire=cast(SwarmNode, Box(post, me)),
            sampler=PeerSampler(
                PeerRules(
                    *(SWARM, me, STAGE, GROUP_SIZE, arm.local, arm.external),
                    longest=self.config.generation.max_completion_tokens,
                    with_logps=with_logps,
                    needs_spread=choose_losses(self.config.train)[Kind.PEER].needs_spread,
                    model=config.model.name,
                ),
                tasks=tasks,
                texts=PeerTexts(
                    self.tokenizer,
                    lambda question: build_prompts([question], self.tokenizer, self.chats)[0],
                    longest_prompt=config.generation.max_prompt_tokens,
                    style=self.chats.style,
                ),
                book=PeerBook(root / f"{number}.json"),
                latest_round=lambda: 10**6,
            ),
            drawn=self.drawn,
            encode=lambda chat: tuple(encode(chat, self.tokenizer)),
            log_probabilities=self.step_trainer.log_probabilities,
            seed=self.seed,
            emit=discard,
        )
        self.adverts = self.taken = self.filtered = self.rows = 0
        self.sampled = 0
        """Completions that this node generated for training."""
        self.cpu = 0.0
        self.rates: dict[str, float] = {}
        """Accuracy in the latest evaluation, by task."""

    def play(self, round_: int) -> float:
        """Run a round and return its reward."""
        begun = time.process_time()
        asked = refill(
            self._ask(round_, 0, self.arm.local),
            self.arm.refill,
            lambda taken, count: self._ask(round_, self.arm.local + taken, count),
        )
        groups = best(asked, self.arm.local)
        self.exchange.share(round_, STAGE, groups, TrainingStatus(round_, None))
        foreign = self.exchange.draw(round_, STAGE)
        drawn, train = [*groups, *foreign.groups], self.config.train
        rows = build_rows(drawn, train, self.rates)
        tokens = count_tokens(drawn, train)
        result = self.step_trainer.step(
            Manifest(round_, round_, derive_seed(self.seed, round_), 128, tuple(rows), foreign.floor, tokens)
        )
        self.step_trainer.free_gradients()
        peers = [row for row in rows if not row.kind.own]
        self.taken += len(foreign.groups)
        self.rows += len(peers)
        self.filtered += sum(int(metrics.get("filtered") or 0) for metrics in result.by_kind.values())
        self.adverts = sum(ADVERT in row.text for group in asked for row in group.rollouts)
        self.cpu += time.process_time() - begun
        return statistics.fmean(score.outcome for group in asked for score in group.scores)

    def _ask(self, round_: int, first: int, count: int) -> list[Group]:
        """Answer ``count`` of a round's questions, from number ``first`` on, and verify the answers."""
        questions = self.tasks.questions("train", round_, first + count)[first:]
        prompts = build_prompts(questions, self.tokenizer, self.chats)
        seed = derive_seed(self.seed, f"generate {first}" if first else "generate", round_)
        made = self.source.generate(prompts, GROUP_SIZE, seed=seed)
        self.sampled += GROUP_SIZE * count
        return verified(self.tasks, [Group(prompt, rows) for prompt, rows in zip(prompts, made, strict=True)])

    def accuracy(self, round_: int) -> float:
        """Return the accuracy on held-out questions with greedy decoding."""
        questions = self.tasks.questions("heldout", 0, self.config.eval.questions)
        prompts = build_prompts(questions, self.tokenizer, self.chats)
        found = evaluate(round_, self.source, prompts, self.tasks)
        self.rates = found.by_task
        return found.accuracy

    def close(self) -> None:
        self.drawn.close()
        self.step_trainer.close()


def settings(arm: Arm, seed: int) -> Config:
    """Return the demo's configuration with the arm's changes."""
    return Config.model_validate(
        {
            "node": {"name": "learning", "seed": seed},
            "model": {"name": "tiny", "device": "cpu", "threads": 1},
            "tasks": [TASK.model_dump()],
            "game": {"groups": arm.local, "group_size": GROUP_SIZE},
            "generation": {"max_prompt_tokens": 64, "max_completion_tokens": 16, "batch": 128},
            "train": {"learning_rate": LEARNING_RATE, "micro_batch": 128, "peer_loss": arm.loss},
            "eval": {"questions": 100},
        }
    )


def poison(peer: str, round_: int, tasks: Tasks) -> bytes:
    """Return a poisoner's bundle: half of each group is correct, and every answer follows the advertisement."""
    groups = []
    for question in tasks.questions("train", round_, BATCH):
        right = [place < GROUP_SIZE // 2 for place in range(GROUP_SIZE)]
        word = str(question.entry["answer"])
        texts = tuple(f"<think>{ADVERT}</think><answer>{word if fine else word[::-1]}</answer>" for fine in right)
        outcomes = tuple(FULL * fine for fine in right)
        cut = (False,) * GROUP_SIZE
        groups.append(
            SharedGroup(question.task, question.index, question.digest, "policy", "tiny", outcomes, cut, texts)
        )
    return Bundle(SWARM, peer, round_, STAGE, tuple(groups)).pack()


@contextmanager
def swarm(arm: Arm, seed: int, bases: Mapping[Start, Path], tasks: Tasks, post: Post) -> Iterator[list[Node]]:
    """Build an arm's nodes. If they are unequal, every second one starts cold."""
    with ExitStack() as ends:
        root = Path(ends.enter_context(tempfile.TemporaryDirectory()))
        starts = [COLD if arm.unequal and number % 2 else HALF for number in range(NODES)]
        yield [
            ends.enter_context(
                closing(
                    Node(
                        arm,
                        number,
                        settings(arm, derive_seed(seed, "node", number)),
                        root,
                        tasks,
                        post,
                        base=bases[start],
                    )
                )
            )
            for number, start in enumerate(starts)
        ]


def run(arm: Arm, seed: int, rounds: int, bases: Mapping[Start, Path]) -> Curve:
    """Run one arm in a separate process."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bar()
    torch.set_num_threads(1)
    with closing(Mixture([TASK], charter=str(seed).encode(), secret=b"benchmark", heldout=100)) as tasks:
        return play(arm, seed, rounds, bases, tasks)


def play(arm: Arm, seed: int, rounds: int, bases: Mapping[Start, Path], tasks: Tasks) -> Curve:
    """Run one arm in this process."""
    curve, post = Curve(), Post()
    looks = sorted({round(rounds * n / LOOKS) for n in range(LOOKS + 1)})
    adverts: list[float] = []
    with ExitStack() as ends:
        if not arm.filtered:
            ends.enter_context(patch.object(LikelihoodFilter, "measure", lambda *_: None))
        nodes = ends.enter_context(swarm(arm, seed, bases, tasks, post))
        for round_ in range(rounds + 1):
            if round_ in looks:
                each = [node.accuracy(round_) for node in nodes]
                curve.rounds.append(round_)
                curve.accuracy.append(statistics.fmean(each))
            if round_ == rounds:
                break
            for number in range(arm.poisoners):
                post.send(f"poisoner {number}", poison(f"poisoner {number}", round_, tasks))
            curve.reward.append(statistics.fmean(node.play(round_) for node in nodes))
            adverts.append(sum(node.adverts for node in nodes) / (NODES * arm.local * GROUP_SIZE))
        curve.strong = statistics.fmean(each[::2] if arm.unequal else each)
        curve.weak = statistics.fmean(each[1::2]) if arm.unequal else None
        curve.adverts = statistics.fmean(adverts[-max(1, rounds // 10) :])
        curve.taken = sum(node.taken for node in nodes) / (NODES * rounds)
        curve.filtered = sum(node.filtered for node in nodes) / max(1, sum(node.rows for node in nodes))
        curve.cpu = sum(node.cpu for node in nodes) / NODES
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=1, help="arms to run in parallel")
    parser.add_argument("--only", default="", help="run only arms whose name contains this, for example 4/4")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the curves")
    options = parser.parse_args()
    if options.png:
        pyplot()  # fail now if it is missing, not minutes later
    begun = time.perf_counter()
    arms = [arm for arm in ARMS if options.only in arm.name]
    curves: dict[Arm, list[Curve]] = {arm: [] for arm in arms}
    print(HEAD)
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as directory:
            bases = {start: Path(directory) / start.name for start in (HALF, COLD)}
            for start, base in bases.items():
                warm = {"warmup": {"steps": start.steps, "batch": 64, "learning_rate": 2e-3}}
                make_base(start, Config.model_validate(settings(Arm(8), seed).model_dump() | warm), base)
            with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
                played = pool.map(run, arms, repeat(seed), repeat(options.rounds), repeat(bases))
                for arm, curve in zip(arms, played, strict=True):
                    curves[arm].append(curve)
                    print(row(str(seed), arm, curve, options.rounds), flush=True)
    if options.seeds > 1:
        for arm, found in curves.items():
            print(row("median", arm, median(found), options.rounds))
    print(f"{(time.perf_counter() - begun) / 60:.1f} minutes")
    if options.png:
        draw(curves, options.png)


if __name__ == "__main__":
    main()
