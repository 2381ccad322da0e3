"""Measure what nodes with a real model learn from each other, beside what each learns alone.

Nodes in one process, as in ``benchmarks.swarm_learning``: bundles, peers' groups, quota, reputation and filter are the
product's code, and a list replaces the network. All nodes start with the same model and ask in the same style, and get
the same questions, so they differ in what they sample. An arm I/J has I groups of 8 completions per node and round
that it samples itself, and up to J that it draws from its peers.

Prints each arm's accuracy by round, a mean over the nodes, with greedy decoding on held-out questions. Then, for each
arm, the rounds until half of the questions are answered, and differences from 8/0 with the same seed.

    python -m benchmarks.real.swarm --task rotate_matrix --style boxed --examples 1 --system --seeds 2

Run with the tiny model so far, not yet with a real one.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from benchmarks.real import tasks
from benchmarks.swarm_arms import GROUP_SIZE
from benchmarks.swarm_learning import Node, Post
from hivemind_exp.config import Config
from hivemind_exp.game.prompt_style import PromptStyle, build_chats
from hivemind_exp.seeds import derive_seed
from hivemind_exp.tasks.mixture import Mixture

HALF = 0.5


@dataclass(frozen=True, slots=True)
class Share:
    """How many groups of a step a node samples, and how many it draws."""

    local: int
    external: int
    loss: str = "positive"

    @property
    def name(self) -> str:
        return f"{self.local}/{self.external}"


@dataclass(slots=True)
class Curve:
    """One arm with one seed."""

    rounds: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    """Mean over the nodes, for each of ``rounds``."""
    reward: float = 0.0
    """Sum over the rounds of the mean share of correct completions."""
    taken: float = 0.0
    """Mean number of peers' groups per step."""
    filtered: float = 0.0
    """Share of peers' rows that the filter left out."""

    @property
    def half(self) -> int | None:
        """Return the rounds at the first evaluation with half of the questions answered; None: never."""
        return next((at for at, right in zip(self.rounds, self.accuracy, strict=True) if right >= HALF), None)


def share(text: str) -> Share:
    """Return the arm of a name such as "4/4"."""
    local, _, external = text.partition("/")
    return Share(int(local), int(external))


def settings(arm: Share, seed: int, options: argparse.Namespace) -> Config:
    """Return the settings of profile ``smol`` that matter here, with the arm's groups."""
    table = tasks.table(options.task, options.directory)
    return Config.model_validate(
        {
            "node": {"name": "learning", "seed": seed},
            "model": {"name": options.model, "device": options.device, "threads": 1},
            "tasks": [table],
            "game": {"groups": arm.local, "group_size": GROUP_SIZE},
            "generation": {"max_prompt_tokens": 512, "max_completion_tokens": 32, "batch": 256},
            "train": {"learning_rate": options.rate, "micro_batch": 32, "peer_loss": arm.loss},
            "eval": {"questions": options.questions},
        }
    )


def run(arm: Share, seed: int, options: argparse.Namespace) -> Curve:
    """Run one arm in a separate process."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bar()
    torch.set_num_threads(1)
    specs = settings(arm, seed, options).tasks
    with closing(Mixture(specs, charter=str(seed).encode(), secret=b"benchmark", heldout=options.questions)) as mixture:
        return play(arm, seed, mixture, options)


def play(arm: Share, seed: int, mixture: Mixture, options: argparse.Namespace) -> Curve:
    """Run one arm in this process."""
    curve, post = Curve(), Post()
    chats = build_chats(PromptStyle(options.style, options.examples, options.system), mixture)
    with ExitStack() as ends:
        root = Path(ends.enter_context(tempfile.TemporaryDirectory()))
        nodes = [
            ends.enter_context(
                closing(
                    Node(
                        arm,
                        number,
                        settings(arm, derive_seed(seed, "node", number), options),
                        root,
                        mixture,
                        post,
                        chats,
                    )
                )
            )
            for number in range(options.nodes)
        ]
        for round_ in range(options.rounds + 1):
            if round_ % options.every == 0:
                curve.rounds.append(round_)
                curve.accuracy.append(statistics.fmean(node.accuracy(round_) for node in nodes))
                said = ", ".join(f"{at}: {right:.3f}" for at, right in zip(curve.rounds, curve.accuracy, strict=True))
                print(f"{arm.name} seed {seed}  {said}", flush=True)
            if round_ < options.rounds:
                curve.reward += statistics.fmean(node.play(round_) for node in nodes)
        curve.taken = sum(node.taken for node in nodes) / (len(nodes) * options.rounds)
        curve.filtered = sum(node.filtered for node in nodes) / max(1, sum(node.rows for node in nodes))
    return curve


def report(arm: Share, curves: Sequence[Curve], alone: Sequence[Curve]) -> str:
    """Return an arm's results on one line, beside those of the first arm with the same seeds."""
    last = [curve.accuracy[-1] for curve in curves]
    gains = [curve.reward - other.reward for curve, other in zip(curves, alone, strict=True)]
    return (
        f"{arm.name}  last {' '.join(f'{each:.3f}' for each in last)}  half after "
        f"{' '.join(str(curve.half) for curve in curves)} rounds  summed reward "
        f"{' '.join(f'{curve.reward:.2f}' for curve in curves)} ({' '.join(f'{each:+.2f}' for each in gains)})  "
        f"drawn {statistics.fmean(curve.taken for curve in curves):.2f} groups a step, "
        f"{statistics.fmean(curve.filtered for curve in curves):.0%} of rows filtered"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=tasks.NAMES, default="rotate_matrix")
    parser.add_argument("--arms", nargs="+", type=share, default=[share("8/0"), share("4/4"), share("8/8")])
    parser.add_argument("--nodes", type=int, default=5, help="a peer fills at most an eighth of a step")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--every", type=int, default=10, help="rounds between evaluations")
    parser.add_argument("--questions", type=int, default=100, help="held-out questions")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rate", type=float, default=2e-5, help="learning rate")
    parser.add_argument("--style", default="plain", help="prompt style of all nodes")
    parser.add_argument("--examples", type=int, default=1, help="examples in each prompt")
    parser.add_argument("--system", action="store_true", help="put the instruction into the system turn")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parallel", type=int, default=6, help="swarms at a time")
    options = parser.parse_args(arguments)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    jobs = [(arm, seed) for seed in seeds for arm in options.arms]
    with tempfile.TemporaryDirectory() as directory:
        options.directory = Path(directory)
        with ProcessPoolExecutor(options.parallel, get_context("spawn")) as pool:
            found = list(pool.map(run, *zip(*jobs, strict=True), [options] * len(jobs)))
    by_arm = {arm: [curve for (each, _), curve in zip(jobs, found, strict=True) if each == arm] for arm in options.arms}
    alone = by_arm[options.arms[0]]
    for arm, curves in by_arm.items():
        print(report(arm, curves, alone))


if __name__ == "__main__":
    main()
