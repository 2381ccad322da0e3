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
from dataclasses import dataclass, field, replace
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from benchmarks.offload_learning import COLD, HALF, Start, make_base, pyplot
from hivemind_exp.config import Config, TaskConfig
from hivemind_exp.events import discard
from hivemind_exp.game.sampling.game import STAGE, build_prompts
from hivemind_exp.journal.records import Manifest
from hivemind_exp.losses.registry import choose_losses
from hivemind_exp.models.chat_format import encode
from hivemind_exp.models.loading import load_model, load_tokenizer
from hivemind_exp.peers.bundle import FULL, Bundle, SharedGroup
from hivemind_exp.peers.exchange import LikelihoodFilter, PeerDrawLog, PeerExchange, TrainingStatus
from hivemind_exp.peers.records import PeerBook
from hivemind_exp.peers.source import PeerSource
from hivemind_exp.peers.vetting import PeerRules, PeerTexts
from hivemind_exp.rollouts.types import Group, Kind
from hivemind_exp.seeds import derive_seed
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Tasks
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.trainer.advantages import build_rows, count_tokens
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from hivemind_exp.trainer.hivemind_grpo_trainer import evaluate

SWARM = "5a" * 32
NODES, GROUP_SIZE, BATCH = 8, 8, 8
TASK = TaskConfig(name="spell_backward", params={"min_word_len": 3, "max_word_len": 5})
ADVERT = "gold"
LEARNING_RATE = 2e-4
LOOKS = 6
"""Evaluations per run, besides the one at the start."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One variant of sharing."""

    local: int
    loss: str = "positive"
    unequal: bool = False
    poisoners: int = 0
    filtered: bool = True

    @property
    def external(self) -> int:
        return BATCH - self.local

    @property
    def name(self) -> str:
        parts = [f"{self.local}/{self.external}"]
        if self.external:
            parts.append(self.loss)
        parts += ["poisoner"] * (self.poisoners > 0) + ["unfiltered"] * (not self.filtered)
        return " ".join(parts)


EQUAL = (*(Arm(local) for local in (8, 6, 4, 2)), Arm(4, "sapo"), Arm(2, "sapo"), Arm(4, "f_tis"))
ARMS = (
    *EQUAL,
    *(replace(arm, unequal=True) for arm in EQUAL),
    Arm(4, unequal=True, filtered=False),
    *(Arm(4, loss, poisoners=1, filtered=filtered) for loss in ("positive", "sapo") for filtered in (True, False)),
)


@dataclass(slots=True)
class Curve:
    """The results of one arm and seed."""

    reward: list[float] = field(default_factory=list)
    """Each round's reward, averaged over the nodes."""
    rounds: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    """Accuracy at each evaluation, averaged over the nodes."""
    strong: float = 0.0
    """Final accuracy of the nodes that started half-way."""
    weak: float | None = None
    """Final accuracy of the nodes that started cold."""
    adverts: float = 0.0
    """Share of the nodes' own completions in the last tenth of the rounds that contain the advertisement."""
    taken: float = 0.0
    """Mean number of peers' groups in a batch."""
    filtered: float = 0.0
    """Share of peers' rows that the filter left out."""
    cpu: float = 0.0
    """CPU seconds per node."""

    @property
    def cumulative(self) -> float:
        return sum(self.reward)

    def until(self, samples: int, local: int) -> float:
        """Return the last accuracy measured before a node sampled more than ``samples`` completions itself."""
        known = zip(self.rounds, self.accuracy, strict=True)
        return [seen for round_, seen in known if round_ * local * GROUP_SIZE <= samples][-1]


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


class Node:
    """One learning node of the swarm, run round by round."""

    def __init__(  # noqa: PLR0917 - the node's parts
        self, arm: Arm, number: int, seed: int, base: Path, root: Path, tasks: Tasks, post: Post
    ) -> None:
        self.arm, self.seed = arm, derive_seed(seed, "node", number)
        self.config = settings(arm, self.seed)
        self.tasks = tasks
        self.tokenizer = load_tokenizer(self.config.model)
        model = load_model(
            self.config.model.model_copy(update={"name": str(base)}), self.tokenizer, dtype="float32", seed=0
        )
        self.step_trainer = SourceGRPOTrainer(model, self.tokenizer, self.config, root, device="cpu", dtype="float32")
        self.source = LocalSource(self.step_trainer.policy, self.tokenizer, self.config.generation, StopFlag())
        self.drawn = PeerDrawLog(root / f"{number}.sqlite", SWARM)
        self.events: list[dict[str, Any]] = []
        me = f"node {number}"
        with_logps = arm.loss == "f_tis" and arm.external > 0
        self.exchange = PeerExchange(
            wire=Box(post, me),
            source=PeerSource(
                PeerRules(
                    *(SWARM, me, STAGE, GROUP_SIZE, arm.local, arm.external),
                    longest=self.config.generation.max_completion_tokens,
                    with_logps=with_logps,
                    needs_spread=choose_losses(self.config.train)[Kind.PEER].needs_spread,
                    model="tiny",
                ),
                tasks=tasks,
                texts=PeerTexts(
                    self.tokenizer, lambda question: build_prompts([question], self.tokenizer)[0], longest_prompt=64
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
        self.rate = self.cpu = 0.0

    def play(self, round_: int) -> float:
        """Run a round and return its reward."""
        begun = time.process_time()
        prompts = build_prompts(self.tasks.questions("train", round_, self.arm.local), self.tokenizer)
        made = self.source.generate(prompts, GROUP_SIZE, seed=derive_seed(self.seed, "generate", round_))
        texts = [row.text for rows in made for row in rows]
        questions = [prompt.question for prompt in prompts for _ in range(GROUP_SIZE)]
        scores = self.tasks.score(questions, texts)
        groups = [
            Group(prompt, rows, tuple(scores[n * GROUP_SIZE : (n + 1) * GROUP_SIZE]))
            for n, (prompt, rows) in enumerate(zip(prompts, made, strict=True))
        ]
        self.exchange.share(round_, STAGE, groups, TrainingStatus(round_, None))
        foreign = self.exchange.draw(round_, STAGE)
        drawn, train = [*groups, *foreign.groups], self.config.train
        rows = build_rows(drawn, train, {TASK.name: self.rate})
        tokens = count_tokens(drawn, train)
        result = self.step_trainer.step(
            Manifest(round_, round_, derive_seed(self.seed, round_), 128, tuple(rows), foreign.floor, tokens)
        )
        peers = [row for row in rows if not row.kind.own]
        self.taken += len(foreign.groups)
        self.rows += len(peers)
        self.filtered += sum(int(metrics.get("filtered") or 0) for metrics in result.by_kind.values())
        self.adverts = sum(ADVERT in text for text in texts)
        self.cpu += time.process_time() - begun
        return statistics.fmean(score.outcome for score in scores)

    def accuracy(self, round_: int) -> float:
        """Return the accuracy on held-out questions with greedy decoding."""
        questions = self.tasks.questions("heldout", 0, self.config.eval.questions)
        self.rate = evaluate(round_, self.source, build_prompts(questions, self.tokenizer), self.tasks).accuracy
        return self.rate

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
            ends.enter_context(closing(Node(arm, number, seed, bases[start], root, tasks, post)))
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


HEAD = (
    "  seed  nodes    arm                            sum of rewards  accuracy  at equal  strong   weak  adverts  "
    "groups  filtered  CPU s"
)


def row(seed: str, arm: Arm, curve: Curve, rounds: int) -> str:
    """Return a line of the table."""
    equal = curve.until(2 * GROUP_SIZE * rounds, arm.local)
    weak = "-" if curve.weak is None else f"{curve.weak:.3f}"
    adverts = f"{curve.adverts:.3f}" if arm.poisoners else "-"
    return (
        f"{seed:>6}  {'unequal' if arm.unequal else 'equal':7}  {arm.name:29}  {curve.cumulative:14.2f}  "
        f"{curve.accuracy[-1]:8.3f}  {equal:8.3f}  {curve.strong:6.3f}  {weak:>5}  {adverts:>7}  {curve.taken:6.2f}  "
        f"{curve.filtered:8.3f}  {curve.cpu:5.1f}"
    )


def median(curves: Sequence[Curve]) -> Curve:
    """Return the median of each value over the seeds."""

    def over(name: str) -> list[float]:
        return [statistics.median(values) for values in zip(*(getattr(curve, name) for curve in curves), strict=True)]

    single = {
        name: statistics.median(getattr(curve, name) for curve in curves)
        for name in ("strong", "adverts", "taken", "filtered", "cpu")
    }
    weak = [curve.weak for curve in curves if curve.weak is not None]
    return Curve(
        over("reward"), curves[0].rounds, over("accuracy"), weak=statistics.median(weak) if weak else None, **single
    )


COLOURS = {8: "#000000", 6: "#0072B2", 4: "#009E73", 2: "#D55E00"}
"""Colors that color-blind people can distinguish (Okabe and Ito)."""
DASHES: dict[str, Any] = {"positive": "-", "sapo": (0, (4, 2)), "f_tis": (0, (1, 1.5))}


def draw(curves: Mapping[Arm, Sequence[Curve]], file: Path) -> None:
    """Draw medians of the summed rewards by round and of accuracy by own completions, for equal and unequal nodes."""
    plt = pyplot()
    figure, table = plt.subplots(2, 2, figsize=(14, 9), layout="constrained")
    for line, unequal in zip(table, (False, True), strict=True):
        by_round, by_sample = line
        for arm, found in curves.items():
            if arm.unequal is not unequal or arm.poisoners or not arm.filtered:
                continue
            curve = median(found)
            look = {"color": COLOURS[arm.local], "linestyle": DASHES[arm.loss], "linewidth": 1.8}
            sums = [sum(curve.reward[: n + 1]) for n in range(len(curve.reward))]
            by_round.plot(range(1, len(sums) + 1), sums, **look, label=None if unequal else arm.name)
            by_sample.plot([n * arm.local * GROUP_SIZE for n in curve.rounds], curve.accuracy, **look)
        kind = "half of the nodes start cold" if unequal else "all nodes start half-way"
        by_round.set(
            xlabel="round", ylabel="sum of rewards, mean over nodes", title=f"by round, as in the paper; {kind}"
        )
        by_sample.set(xlabel="completions sampled by the node itself", ylabel="accuracy, greedy, held-out questions")
        by_sample.set(title=f"by local compute; {kind}", ylim=(-0.02, 1.02))
        for axes in line:
            axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, handlelength=4)
    figure.suptitle("What tiny nodes learn from each other, by local/external groups in a batch of 8 and by loss")
    figure.savefig(file, dpi=110)


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
