"""Measure what nodes with a real model learn from each other, beside what each learns alone.

Nodes in one process, as in ``benchmarks.swarm_learning``: bundles, peers' groups, quota, reputation and filter are the
product's code, and a list replaces the network. All nodes start with the same model and ask in the same style, and get
the same questions, so they differ in what they sample. An arm I/J has I groups of 8 completions per node and round
that it samples itself, and up to J that it draws from its peers. 8/0+8 may ask up to 8 extra questions in a round in
place of groups that tie (``game.refill``), and shares nothing. 4/4:sapo has another loss for peers' groups
(``train.peer_loss``).

Prints each arm's accuracy by round, a mean over the nodes, with greedy decoding on held-out questions. Then, for each
arm, accuracy at the end, accuracy when a node had sampled as many completions itself as in the arm with the fewest, and
when it had played as long as the arm that took the shortest (both interpolated linearly), the sum over the rounds of
the share of correct completions, and differences from the first arm with the same seed. Seconds are those of the rounds
of all nodes, which take turns, without evaluations; swarms that run at a time slow each other down.

    python -m benchmarks.real.swarm --style plain --examples 3 --seeds 2
    python -m benchmarks.real.swarm --arms 4/4 4/4:sapo 4/4:f_tis --style plain --examples 3 --seeds 2
    python -m benchmarks.real.swarm --tasks rotate_matrix --arms 8/0 8/8 --style boxed --examples 1 --system

Nodes that differ in what they know: ``--bases`` are directories of models that were trained before, for example with
``benchmarks.real.alone --export``. Node n starts with the n-th of them, and all nodes are asked about all tasks.

    python -m benchmarks.real.swarm --tasks word_sequence_reversal rotate_matrix --bases teachers/words teachers/matrix
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.real import tasks
from benchmarks.swarm_arms import GROUP_SIZE
from benchmarks.swarm_learning import Node, Post
from hivemind_exp.config import Config
from hivemind_exp.game.prompt_style import PromptStyle, build_chats
from hivemind_exp.seeds import derive_seed
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.train_settings import TrainConfig

HALF = 0.5
USUAL_LOSS = TrainConfig().peer_loss


@dataclass(frozen=True, slots=True)
class Share:
    """How many groups of a step a node samples, and how many it draws."""

    local: int
    external: int
    refill: int = 0
    loss: str = USUAL_LOSS

    @property
    def name(self) -> str:
        refill = f"+{self.refill}" if self.refill else ""
        return f"{self.local}/{self.external}{refill}" + ("" if self.loss == USUAL_LOSS else f":{self.loss}")


@dataclass(slots=True)
class Curve:
    """One arm with one seed."""

    rounds: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    """Mean over the nodes, for each of ``rounds``."""
    samples: list[float] = field(default_factory=list)
    """Completions that a node has sampled itself by then, a mean over the nodes."""
    seconds: list[float] = field(default_factory=list)
    """Time that all nodes' rounds have taken by then, without evaluations."""
    by_start: dict[tuple[int, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """The same accuracy, by the nodes' start (0: the first of ``--bases``) and by task."""
    reward: list[float] = field(default_factory=list)
    """For each round, the mean share of correct completions."""
    taken: float = 0.0
    """Mean number of peers' groups per step."""
    filtered: float = 0.0
    """Share of peers' rows that the filter left out."""

    @property
    def half(self) -> int | None:
        """Return the rounds at the first evaluation with half of the questions answered; None: never."""
        return next((at for at, right in zip(self.rounds, self.accuracy, strict=True) if right >= HALF), None)

    def within(self, samples: float) -> float:
        """Return the accuracy when a node had sampled so many completions, interpolated between evaluations."""
        return float(np.interp(samples, self.samples, self.accuracy))

    def after(self, seconds: float) -> float:
        """Return the accuracy when the rounds had taken so long, interpolated between evaluations."""
        return float(np.interp(seconds, self.seconds, self.accuracy))


def share(text: str) -> Share:
    """Return the arm of a name such as "4/4", "8/0+8" or "4/4:sapo"."""
    shares, _, loss = text.partition(":")
    local, _, rest = shares.partition("/")
    external, _, refill = rest.partition("+")
    return Share(int(local), int(external), int(refill or 0), loss or USUAL_LOSS)


def settings(arm: Share, seed: int, options: argparse.Namespace) -> Config:
    """Return the settings of profile ``smol`` that matter here, with the arm's groups."""
    return Config.model_validate(
        {
            "node": {"name": "learning", "seed": seed},
            "model": {"name": options.model, "device": options.device, "threads": 1},
            "tasks": [tasks.table(name, options.directory) for name in options.tasks],
            "game": {"groups": arm.local, "group_size": GROUP_SIZE},
            "generation": {"max_prompt_tokens": 512, "max_completion_tokens": options.longest, "batch": 256},
            "train": {"learning_rate": options.rate, "micro_batch": 16, "peer_loss": arm.loss},
            "eval": {"questions": options.questions},
        }
    )


def run(arm: Share, seed: int, options: argparse.Namespace) -> Curve | None:
    """Run one arm in a separate process. None if it is too late to begin."""
    if is_late(options):
        return None
    import torch
    from transformers.utils.logging import disable_progress_bar

    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bar()
    torch.set_num_threads(1)
    specs = settings(arm, seed, options).tasks
    with closing(
        Mixture(specs, charter=str(seed).encode(), secret=b"benchmark", heldout=options.questions, verifiers=1)
    ) as mixture:
        return play(arm, seed, mixture, options)


def is_late(options: argparse.Namespace) -> bool:
    return options.deadline is not None and time.time() >= options.deadline


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
                        base=options.bases[number % len(options.bases)] if options.bases else None,
                    )
                )
            )
            for number in range(options.nodes)
        ]
        seconds = 0.0
        for round_ in range(options.rounds + 1):
            samples = statistics.fmean(node.sampled for node in nodes)
            done = is_late(options) or round_ == options.rounds
            if round_ % options.every == 0 or done:
                look(curve, nodes, round_, options)
                curve.samples.append(samples)
                curve.seconds.append(seconds)
                said = ", ".join(f"{at}: {right:.3f}" for at, right in zip(curve.rounds, curve.accuracy, strict=True))
                own = f"  {samples:.0f} own samples, reward {sum(curve.reward):.2f}, {seconds:.0f} s"
                print(f"{arm.name} seed {seed}  {said}{own}", flush=True)
            if done:
                break
            begun = time.perf_counter()
            curve.reward.append(statistics.fmean(node.play(round_) for node in nodes))
            seconds += time.perf_counter() - begun
        curve.taken = sum(node.taken for node in nodes) / (len(nodes) * max(1, round_))
        curve.filtered = sum(node.filtered for node in nodes) / max(1, sum(node.rows for node in nodes))
    return curve


def look(curve: Curve, nodes: Sequence[Node], round_: int, options: argparse.Namespace) -> None:
    """Evaluate all nodes and add the results to ``curve``."""
    curve.rounds.append(round_)
    curve.accuracy.append(statistics.fmean(node.accuracy(round_) for node in nodes))
    if len(options.bases) > 1:
        rates: dict[tuple[int, str], list[float]] = defaultdict(list)
        for number, node in enumerate(nodes):
            for task, rate in node.rates.items():
                rates[number % len(options.bases), task].append(rate)
        for where, found in rates.items():
            curve.by_start[where].append(statistics.fmean(found))


def report(
    arm: Share, curves: Sequence[Curve], alone: Sequence[Curve], fewest: Sequence[float], shortest: Sequence[float]
) -> str:
    """Return an arm's results, beside those of the first arm with the same seeds.

    ``fewest``: for each seed, the completions that a node sampled itself in the arm with the fewest. ``shortest``: the
    seconds of the arm that took the shortest.
    """
    pairs = list(zip(curves, alone, strict=True))
    measures: Mapping[str, list[tuple[float, float]]] = {
        "at the end": [(curve.accuracy[-1], other.accuracy[-1]) for curve, other in pairs],
        "at equal own sampling": [(c.within(n), o.within(n)) for (c, o), n in zip(pairs, fewest, strict=True)],
        "after equal time": [(c.after(s), o.after(s)) for (c, o), s in zip(pairs, shortest, strict=True)],
        "summed reward": [(sum(curve.reward), sum(other.reward)) for curve, other in pairs],
    }
    lines = [
        f"{arm.name}  half after {' '.join(str(curve.half) for curve in curves)} rounds, drawn "
        f"{statistics.fmean(curve.taken for curve in curves):.2f} groups a step, "
        f"{statistics.fmean(curve.filtered for curve in curves):.0%} of rows filtered, own samples "
        f"{' '.join(f'{curve.samples[-1]:.0f}' for curve in curves)}, seconds "
        f"{' '.join(f'{curve.seconds[-1]:.0f}' for curve in curves)}"
    ]
    for name, found in measures.items():
        values, gains = [value for value, _ in found], [value - other for value, other in found]
        lines.append(
            f"  {name:22} {' '.join(f'{each:.3f}' for each in values)}  mean {statistics.fmean(values):.3f}  "
            f"{' '.join(f'{each:+.3f}' for each in gains)}  mean {statistics.fmean(gains):+.3f}"
        )
    for start, task in sorted(curves[0].by_start):
        rates = [curve.by_start[start, task] for curve in curves]
        lines.append(f"  start {start}, {task}: " + ", ".join(f"{rate[0]:.3f} -> {rate[-1]:.3f}" for rate in rates))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=tasks.NAMES, default=["word_sequence_reversal"])
    arms = [share(name) for name in ("8/0", "6/2", "4/4", "8/8", "8/0+8")]
    parser.add_argument("--arms", nargs="+", type=share, default=arms)
    parser.add_argument("--nodes", type=int, default=8, help="a peer fills at most an eighth of a step")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=60, help="rounds of each arm")
    parser.add_argument("--every", type=int, default=10, help="rounds between evaluations")
    parser.add_argument("--questions", type=int, default=100, help="held-out questions")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--bases", nargs="+", type=Path, default=[], help="directories of the models to start with")
    parser.add_argument("--rate", type=float, default=2e-5, help="learning rate")
    parser.add_argument("--longest", type=int, default=32, help="most tokens per completion")
    parser.add_argument("--style", default="plain", help="prompt style of all nodes")
    parser.add_argument("--examples", type=int, default=3, help="examples in each prompt")
    parser.add_argument("--system", action="store_true", help="put the instruction into the system turn")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parallel", type=int, default=4, help="swarms at a time")
    parser.add_argument("--minutes", type=float, help="stop all swarms then, and report seeds with all arms")
    options = parser.parse_args(arguments)
    options.deadline = None if options.minutes is None else time.time() + 60 * options.minutes
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    jobs = [(arm, seed) for seed in seeds for arm in options.arms]
    with tempfile.TemporaryDirectory() as directory:
        options.directory = Path(directory)
        with ProcessPoolExecutor(options.parallel, get_context("spawn")) as pool:
            found = list(pool.map(run, *zip(*jobs, strict=True), [options] * len(jobs)))
    done = dict(zip(jobs, found, strict=True))
    whole = [seed for seed in seeds if all(done[arm, seed] for arm in options.arms)]
    by_arm = {arm: [curve for seed in whole if (curve := done[arm, seed])] for arm in options.arms}
    alone = by_arm[options.arms[0]]
    by_seed = list(zip(*by_arm.values(), strict=True))
    fewest = [min(curve.samples[-1] for curve in same) for same in by_seed]
    shortest = [min(curve.seconds[-1] for curve in same) for same in by_seed]
    for arm, curves in by_arm.items() if whole else ():
        print(report(arm, curves, alone, fewest, shortest))


if __name__ == "__main__":
    main()
