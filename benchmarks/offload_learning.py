"""Measure what a student model learns from a teacher over HTTP, and what that costs.

The student is the demo's tiny model. Accuracy is measured with greedy decoding on held-out questions, always with the
real verifier. A student with a *cold* start knows the format and copies the word, so it is almost never correct. The
*half-way* start is that of the demo. The teacher is a server in a separate process. It is correct three times in ten
and has a fixed price. Prints a table, with medians if there are several seeds. Draws accuracy by round and by dollar.
Takes four to five minutes per seed on one CPU core.

    python -m benchmarks.offload_learning --seeds 3 --png learning.png

Learning rates: 1e-3 if the student learns only from the teacher's text, gated or not. 5e-4 if a cold student learns
from the teacher's text and from its own samples, because 1e-3 is unstable for some seeds. Otherwise the demo's 1e-4,
because at 1e-3 the student alone falls to 0. These rates were chosen by looking at seeds 0 and 1, so the curves of
these two seeds look a little too good.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from benchmarks.changed_rewards import ChangedRewards
from hivemind_exp.config import Config
from hivemind_exp.events import EvalEvent, Event, SpendEvent
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.seeds import derive_seed
from hivemind_exp.tasks.base import Question, Score, Tasks
from tests.support.fake_api.ask import Messages, digest
from tests.support.fake_api.remote import RemoteServer, api_process

TEACHER_RIGHT = 0.3
TEACHER_COPIES = 0.75
"""Share of the teacher's wrong answers that are the unchanged word. The others are the word shuffled."""
PRICE = {"input": 0.15, "output": 0.60}
"""Dollars per million tokens, as for gpt-4o-mini."""
SEED_VARIABLE = "OFFLOAD_LEARNING_SEED"
MARK = 0.7
"""The table shows the dollars needed to reach this accuracy."""
EXAMPLES = 8192
"""Number of questions that the warm-up draws from, as in the demo."""


def teach(messages: Messages, index: int) -> str:
    """Return the teacher's answer to a question of spell_backward. Runs in the server's process."""
    word = messages[-1]["content"].split()[-1]
    chance = random.Random(f"{os.environ.get(SEED_VARIABLE, '0')}/{digest(messages)}/{index}")
    if chance.random() < TEACHER_RIGHT:
        answer = word[::-1]
    else:
        shuffled = "".join(chance.sample(word, len(word)))
        # An accidentally correct answer would raise the teacher's accuracy above three in ten.
        answer = word if chance.random() < TEACHER_COPIES or shuffled == word[::-1] else shuffled
    return f"<answer>{answer}</answer>"


class Ungated(ChangedRewards):
    """Every training completion counts as correct, so that all texts weigh the same."""

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        if questions[0].split == "train":
            return [Score(1.0, True, "not verified")] * len(questions)
        return super().score(questions, completions)


@dataclass(frozen=True, slots=True)
class Start:
    """How the student was warmed up."""

    name: str
    steps: int
    right: float | None
    """Share of correct demonstrations, at any word length. None means as in the demo."""


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """One variant of learning."""

    name: str
    start: Start
    offload: Mapping[str, Any] | None = None
    """Settings of ``[offload]``. With None, the student generates locally."""
    gated: bool = True
    learning_rate: float = 1e-4


@dataclass(slots=True)
class Curve:
    """The results of one arm and seed, with one value per evaluation."""

    rounds: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    usd: list[float] = field(default_factory=list)
    """Dollars spent on the rounds so far, including the test request."""
    seconds: float = 0.0

    @property
    def points(self) -> float:
        """Gain in accuracy, in percentage points."""
        return 100 * (self.accuracy[-1] - self.accuracy[0])

    def usd_until(self, accuracy: float) -> float | None:
        """Return the dollars spent when an evaluation first reaches ``accuracy``, or None if none does."""
        return next((usd for usd, seen in zip(self.usd, self.accuracy, strict=True) if seen >= accuracy), None)


COLD = Start("cold", 150, 0.0)
HALF = Start("half-way", 450, None)
ALONE, WHOLE, PART, FAILED, UNGATED = "alone", "share 1", "share 1/2", "share 1/2, if failed", "share 1, ungated"
ARMS = (
    Arm(ALONE, COLD),
    Arm(WHOLE, COLD, {"share": 1.0}, learning_rate=1e-3),
    Arm(UNGATED, COLD, {"share": 1.0}, gated=False, learning_rate=1e-3),
    Arm(PART, COLD, {"share": 0.5}, learning_rate=5e-4),
    Arm(FAILED, COLD, {"share": 0.5, "when": "failed"}, learning_rate=5e-4),
    Arm(ALONE, HALF),
    Arm(PART, HALF, {"share": 0.5}),
    Arm(FAILED, HALF, {"share": 0.5, "when": "failed"}),
)
STYLES = {
    ALONE: ("#000000", "o"),
    WHOLE: ("#0072B2", "s"),
    UNGATED: ("#CC79A7", "X"),
    PART: ("#D55E00", "^"),
    FAILED: ("#009E73", "D"),
}
"""Colors that color-blind people can distinguish (Okabe and Ito), and a marker per arm."""


def settings(arm: Arm, seed: int, rounds: int, server: RemoteServer | None) -> Config:
    """Return the demo's configuration with the arm's changes."""
    offload: dict[str, Any] = {"provider": "off"}
    if arm.offload is not None:
        offload = {"provider": "teacher", "model": "teacher", "fallback": [], "prices": {"teacher": PRICE}}
    return Config.model_validate(
        {
            "node": {"name": "learning", "seed": seed},
            "model": {"name": "tiny", "device": "cpu", "threads": 1},
            "tasks": [{"name": "spell_backward", "params": {"min_word_len": 3, "max_word_len": 5}}],
            "game": {"rounds": rounds, "groups": 16, "group_size": 8},
            "generation": {"max_prompt_tokens": 64, "max_completion_tokens": 16, "batch": 128},
            "train": {"learning_rate": arm.learning_rate, "micro_batch": 128},
            "warmup": {"steps": arm.start.steps, "batch": 64, "learning_rate": 2e-3},
            "eval": {"every": max(1, rounds // 20), "questions": 200},
            "checkpoint": {"every": rounds},
            "offload": offload | dict(arm.offload or {}),
            "providers": {} if server is None else {"teacher": {"base_url": server.base_url, "group": "n"}},
        }
    )


def seeded_files(root: Path, seed: int) -> NodeFiles:
    """Return a node's files whose secret follows from the seed, so that all arms get the same held-out questions."""
    files = NodeFiles(root)
    root.mkdir(parents=True, exist_ok=True)
    files.secret_file.write_bytes(hashlib.sha256(str(seed).encode()).digest())
    return files


def make_base(start: Start, config: Config, root: Path) -> None:
    """Warm up a model and save it in ``root``."""
    import torch

    from hivemind_exp.game.sampling.game import build_prompts
    from hivemind_exp.models import tiny as model
    from hivemind_exp.runner.grpo_runner import make_mixture

    torch.set_num_threads(1)
    tokenizer = model.build_tokenizer()
    student = model.build_model(tokenizer, derive_seed(config.node.seed, "tiny"))
    with closing(make_mixture(config, seeded_files(root, config.node.seed))) as tasks:
        prompts = build_prompts(tasks.questions("train", -1, EXAMPLES), tokenizer)
    right = (model.RIGHT, model.RIGHT_LONG) if start.right is None else (start.right, start.right)
    with patch.multiple(model, RIGHT=right[0], RIGHT_LONG=right[1]):
        model.warm_up(
            student,
            tokenizer,
            prompts,
            config.warmup,
            seed=derive_seed(config.node.seed, "warmup"),
            progress=lambda *_: None,
            should_stop=lambda: False,
        )
    student.save_pretrained(root)


@contextmanager
def teacher(arm: Arm, seed: int) -> Iterator[RemoteServer | None]:
    """Start the teacher if the arm has one. Each run needs a new one, because the server counts its requests."""
    if arm.offload is None:
        yield None
        return
    os.environ[SEED_VARIABLE] = str(seed)
    with api_process(answer="benchmarks.offload_learning:teach", models=["teacher"]) as server:
        yield server


def run(arm: Arm, seed: int, rounds: int, base: Path) -> Curve:
    """Run a node in this process. Raises ``AssertionError`` if the node's spending differs from the server's bill."""
    from hivemind_exp.runner.grpo_runner import GRPORunner, make_mixture

    curve, spent = Curve(), 0.0

    def emit(event: Event, /) -> None:
        nonlocal spent
        if isinstance(event, SpendEvent):
            spent += event.usd
        elif isinstance(event, EvalEvent):
            curve.rounds.append(event.round)
            curve.accuracy.append(event.accuracy)
            curve.usd.append(spent)

    def make_tasks(config: Config, files: NodeFiles) -> Tasks:
        tasks = make_mixture(config, files)
        return tasks if arm.gated else Ungated(tasks)

    with tempfile.TemporaryDirectory() as directory, teacher(arm, seed) as server:
        root = Path(directory)
        shutil.copytree(base, root / "base")
        begun = time.perf_counter()
        GRPORunner(settings(arm, seed, rounds, server), seeded_files(root, seed), emit, make_tasks=make_tasks).run()
        curve.seconds = time.perf_counter() - begun
        if server is not None:
            bill = server.usd(PRICE["input"], PRICE["output"])
            assert abs(bill - spent) < 1e-6, f"the node counts {spent} USD, the server {bill}"
    return curve


def median(curves: Sequence[Curve]) -> Curve:
    """Return the median of each value over the seeds."""
    return Curve(
        rounds=curves[0].rounds,
        accuracy=[statistics.median(values) for values in zip(*(curve.accuracy for curve in curves), strict=True)],
        usd=[statistics.median(values) for values in zip(*(curve.usd for curve in curves), strict=True)],
        seconds=statistics.median(curve.seconds for curve in curves),
    )


def row(seed: str, arm: Arm, curve: Curve) -> str:
    """Return a line of the table. Dollar values are ``-`` if no money was spent or nothing was gained."""
    usd, points, until = curve.usd[-1], curve.points, curve.usd_until(MARK)
    each = f"{usd / points:.6f}" if usd and points > 0 else "-"
    return (
        f"{seed:>6}  {arm.start.name:8}  {arm.name:20}  {curve.accuracy[0]:6.3f}  {curve.accuracy[-1]:5.3f}  "
        f"{points:+6.1f}  {usd:7.4f}  {each:>9}  {'-' if not usd or until is None else format(until, '.4f'):>10}  "
        f"{curve.seconds:7.0f}"
    )


def pyplot() -> Any:
    """Import pyplot. If it is missing, exit and print the command that installs it."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit(
            "error: --png needs matplotlib\n  try: pip install -c constraints.txt '.[benchmarks]'"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as found

    return found


def draw(curves: Mapping[Arm, Sequence[Curve]], file: Path) -> None:
    """Draw accuracy by round and by dollar: the median, and each seed as a faint line."""
    plt = pyplot()
    figure, (by_round, by_usd) = plt.subplots(1, 2, figsize=(14, 5.4), sharey=True, layout="constrained")
    paid = [curve.usd[1] for found in curves.values() for curve in found if curve.usd[-1]]
    for arm, found in curves.items():
        colour, marker = STYLES[arm.name]
        cold = arm.start is COLD
        line = {"color": colour, "linestyle": "-" if cold else (0, (4, 2))}
        points = {"marker": marker, "markevery": 2, "markersize": 6, "markerfacecolor": colour if cold else "white"}
        for curve, main in [*((curve, False) for curve in found if len(found) > 1), (median(found), True)]:
            look = {"linewidth": 1.8, **points} if main else {"alpha": 0.25}
            label = f"{arm.start.name}: {arm.name}" if main else None
            by_round.plot(curve.rounds, curve.accuracy, **line, **look, label=label)
            if curve.usd[-1]:
                by_usd.plot(curve.usd[1:], curve.accuracy[1:], **line, **look)
    by_round.set(xlabel="round", ylabel="accuracy, greedy, 200 held-out questions", ylim=(-0.02, 1.02))
    by_round.set_title("by round")
    by_usd.set(xscale="log", xlabel="US dollars spent (logarithmic)", xlim=(0.8 * min(paid), None))
    by_usd.xaxis.set_major_formatter("${x:g}")
    by_usd.set_title("by dollar (the student alone costs nothing)")
    for axes in (by_round, by_usd):
        axes.grid(alpha=0.3)
        axes.axhline(TEACHER_RIGHT, color="0.4", linestyle=":", linewidth=1.2)
    by_round.text(by_round.get_xlim()[1], TEACHER_RIGHT + 0.01, "the teacher ", color="0.4", ha="right", fontsize=9)
    figure.legend(loc="outside right center", frameon=False, handlelength=4, labelspacing=0.9)
    figure.suptitle("What a tiny model learns from a teacher over HTTP")
    figure.savefig(file, dpi=120)


def main() -> None:
    from transformers.utils.logging import disable_progress_bar

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=200, help="rounds of 16 questions with 8 completions")
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the curves")
    options = parser.parse_args()
    if options.png:
        pyplot()  # fail now if it is missing, not minutes later
    # Print only the table: the libraries' warnings are irrelevant here.
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bar()
    begun = time.perf_counter()
    curves: dict[Arm, list[Curve]] = {arm: [] for arm in ARMS}
    print(
        f"  seed  start     arm                   before  after    gain      USD  USD/point  USD to {MARK:.2f}  seconds"
    )
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as directory:
            for start in (COLD, HALF):
                base = Path(directory) / start.name
                make_base(start, settings(Arm(ALONE, start), seed, options.rounds, None), base)
                for arm in (arm for arm in ARMS if arm.start is start):
                    curves[arm].append(run(arm, seed, options.rounds, base))
                    print(row(str(seed), arm, curves[arm][-1]), flush=True)
    if options.seeds > 1:
        for arm, found in curves.items():
            print(row("median", arm, median(found)))
    print(f"{(time.perf_counter() - begun) / 60:.1f} minutes; the teacher is correct {TEACHER_RIGHT:.0%} of the time")
    if options.png:
        draw(curves, options.png)


if __name__ == "__main__":
    main()
