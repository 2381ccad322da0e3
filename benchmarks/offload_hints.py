"""Measure what a student learns from an API's answers and from its hints, and what each costs.

The student is the demo's tiny model, warmed up to do what hints need: half of its demonstrations show a hint and are
mostly correct, the others show none and copy the word. So it can spell backward if told to start at the end, and almost
never does so on its own. The API is a scripted server that sees only the question. Its answers, and the letters that
its hints name, are correct six times in ten; the others are the word itself, or its first letter. It has the price of a
named model. Accuracy is greedy, without hints, on held-out questions.

Prints a table, with the median and the range over the seeds: accuracy before and after; the accuracy that each arm has
reached with as many local tokens as the cheapest arm needs (generated, and three times those learned from, for the
backward pass); tokens sent and received; and cents a point.

    python -m benchmarks.offload_hints --seeds 3
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from benchmarks.offload_learning import SEED_VARIABLE, seeded_files
from hivemind_exp.config import Config
from hivemind_exp.events import EvalEvent, Event, HintsEvent, RolloutsEvent, SpendEvent, StepEvent
from hivemind_exp.models.tiny import TEMPLATE
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.hints import with_hint
from hivemind_exp.offload.prices import bounded_price
from hivemind_exp.offload.settings import first_endpoint
from hivemind_exp.rollouts.types import Prompt
from hivemind_exp.seeds import derive_seed
from tests.support.fake_api.ask import Messages, digest
from tests.support.fake_api.remote import api_process

EXAMPLES = 2048
"""Number of questions that the warm-up draws from."""
RIGHT = 0.6
"""How often the API's answers, and the letters in its hints, are correct."""
FOLLOWED = 0.8
"""How often the warm-up's demonstrations with a hint are correct."""
BACKWARD = 3
"""A forward and backward pass over a token costs about as much as three forward passes."""
PRICED = "openai:gpt-4o-mini"
"""The model whose price the server has."""


def teach(messages: Messages, index: int) -> str:
    """Return an answer, or a hint if the instruction asks for one. Runs in the server's process."""
    word = messages[-1]["content"].split()[-1]
    chance = random.Random(f"{os.environ.get(SEED_VARIABLE, '0')}/{digest(messages)}/{index}")
    right = chance.random() < RIGHT
    if "Write a hint" in messages[0]["content"]:
        return hint(word[-1] if right else word[0])
    return f"<answer>{word[::-1] if right else word}</answer>"


def hint(letter: str) -> str:
    return f"Start with its last letter, {letter}."


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """One way to learn."""

    name: str
    offload: Mapping[str, Any] | None
    learning_rate: float
    """That of ``benchmarks.offload_learning`` for a student that starts cold. With hints, that of answers where the
    student failed."""


ARMS = (
    Arm("alone", None, 1e-4),
    Arm("answers", {"share": 1.0}, 1e-3),
    Arm("answers, failed", {"share": 0.5, "when": "failed"}, 5e-4),
    Arm("hints", {"share": 0.5, "teach": "hints"}, 5e-4),
)


@dataclass(slots=True)
class Curve:
    """One run, with one value per evaluation."""

    accuracy: list[float] = field(default_factory=list)
    local: list[int] = field(default_factory=list)
    """Tokens that this machine has processed for rounds."""
    remote: int = 0
    """Tokens sent and received."""
    usd: float = 0.0
    hints: int = 0
    taught: int = 0
    seconds: float = 0.0

    @property
    def points(self) -> float:
        """Gain in accuracy, in percentage points."""
        return 100 * (self.accuracy[-1] - self.accuracy[0])

    @property
    def cents_a_point(self) -> float:
        """Infinite if something was spent and nothing gained."""
        return 100 * self.usd / self.points if self.points > 0 else float("inf") if self.usd else 0.0

    def within(self, tokens: int) -> float:
        """Return the latest accuracy that was reached with at most ``tokens``."""
        return [right for right, used in zip(self.accuracy, self.local, strict=True) if used <= tokens][-1]


def settings(arm: Arm, seed: int, rounds: int, base_url: str) -> Config:
    """Return an arm's configuration."""
    usd = bounded_price(first_endpoint(Config.model_validate({"offload": {"provider": PRICED}})), {}, capped=True)
    price = {"input": 1e6 * usd.input, "output": 1e6 * usd.output}
    offload: dict[str, Any] = {"provider": "off"}
    if arm.offload is not None:
        offload = {"provider": "teacher", "model": "teacher", "fallback": [], "prices": {"teacher": price}}
    return Config.model_validate(
        {
            "node": {"name": "hints", "seed": seed},
            "model": {"name": "tiny", "device": "cpu", "threads": 1},
            "tasks": [{"name": "spell_backward", "params": {"min_word_len": 3, "max_word_len": 5}}],
            "game": {"rounds": rounds, "groups": 16, "group_size": 8},
            "generation": {"max_prompt_tokens": 64, "max_completion_tokens": 16, "batch": 128},
            "train": {"learning_rate": arm.learning_rate, "micro_batch": 128},
            "warmup": {"steps": 300, "batch": 64, "learning_rate": 2e-3},
            "eval": {"every": max(1, rounds // 10), "questions": 200},
            "checkpoint": {"every": rounds},
            "offload": offload | dict(arm.offload or {}),
            "providers": {"teacher": {"base_url": base_url, "group": "n"}} if arm.offload else {},
        }
    )


def demonstrate(tokenizer: Any, question: str, chance: random.Random) -> list[int]:
    """Return a demonstration's token ids: mostly correct with a hint, and the copied word without."""
    asked, _, hinted = question.partition("\n\n")
    word = asked.removeprefix(TEMPLATE).strip()
    answer = word[::-1] if hinted and chance.random() < FOLLOWED else word
    return [*tokenizer.encode(f"<answer>{answer}</answer>", add_special_tokens=False), tokenizer.eos_token_id]


def make_base(config: Config, root: Path) -> None:
    """Warm up a student that can follow hints, and save it in ``root``."""
    import torch

    from hivemind_exp.game.sampling.game import build_prompts
    from hivemind_exp.models import tiny
    from hivemind_exp.models.chat_format import encode
    from hivemind_exp.runner.grpo_runner import make_mixture

    torch.set_num_threads(1)
    tokenizer = tiny.build_tokenizer()
    student = tiny.build_model(tokenizer, derive_seed(config.node.seed, "tiny"))

    def hinted(prompt: Prompt) -> Prompt:
        text = prompt.question.text
        messages = with_hint(prompt.messages, text, hint(text[-1]))
        question = replaced(prompt.question, text=messages[-1]["content"])
        return replaced(prompt, question=question, ids=tuple(encode(messages, tokenizer)))

    with closing(make_mixture(config, seeded_files(root, config.node.seed))) as tasks:
        prompts = build_prompts(tasks.questions("train", -1, EXAMPLES), tokenizer)
    shown = [hinted(prompt) if number % 2 else prompt for number, prompt in enumerate(prompts)]
    how = {"seed": derive_seed(config.node.seed, "warmup"), "progress": lambda *_: None, "should_stop": lambda: False}
    with patch.object(tiny, "_answer_ids", demonstrate):
        tiny.warm_up(student, tokenizer, shown, config.warmup, **how)  # type: ignore[arg-type]
    student.save_pretrained(root)


def run(arm: Arm, seed: int, rounds: int, base: Path) -> Curve:
    """Run a node in this process."""
    from hivemind_exp.runner.grpo_runner import GRPORunner

    curve, local, steps = Curve(), 0, set[int]()

    def emit(event: Event, /) -> None:
        nonlocal local
        if isinstance(event, RolloutsEvent) and event.source in ("policy", "hinted"):
            local += event.tokens or 0
        elif isinstance(event, StepEvent) and event.step not in steps:
            steps.add(event.step)
            local += BACKWARD * event.tokens
        elif isinstance(event, SpendEvent):
            curve.usd += event.usd
            curve.remote += event.tokens
        elif isinstance(event, HintsEvent):
            curve.hints += event.hints
            curve.taught += event.taught
        elif isinstance(event, EvalEvent):
            curve.accuracy.append(event.accuracy)
            curve.local.append(local)

    os.environ[SEED_VARIABLE] = str(seed)
    with (
        tempfile.TemporaryDirectory() as directory,
        api_process(answer="benchmarks.offload_hints:teach", models=["teacher"]) as server,
    ):
        root = Path(directory)
        shutil.copytree(base, root / "base")
        begun = time.perf_counter()
        files: NodeFiles = seeded_files(root, seed)
        GRPORunner(settings(arm, seed, rounds, server.base_url), files, emit).run()
        curve.seconds = time.perf_counter() - begun
    return curve


def spread(values: Sequence[float], form: str) -> str:
    """Return the median, with the range if there are several values."""
    middle = format(statistics.median(values), form)
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


def table(curves: Mapping[Arm, Sequence[Curve]]) -> str:
    """Return the results of the seeds so far."""
    count = len(next(iter(curves.values())))
    budgets = [min(found[seed].local[-1] for found in curves.values()) for seed in range(count)]
    lines = ["arm | before | after | with the least local tokens | API tokens | cents a point | hints that taught"]
    for arm, found in curves.items():
        equal = [curve.within(budget) for curve, budget in zip(found, budgets, strict=True)]
        shares = [curve.taught / curve.hints for curve in found if curve.hints]
        cells = [
            arm.name,
            spread([curve.accuracy[0] for curve in found], ".3f"),
            spread([curve.accuracy[-1] for curve in found], ".3f"),
            spread(equal, ".3f"),
            spread([curve.remote for curve in found], ",.0f"),
            spread([curve.cents_a_point for curve in found], ".4f") if any(curve.usd for curve in found) else "-",
            spread(shares, ".2f") if shares else "-",
        ]
        lines.append(" | ".join(cells))
    return "\n".join(lines)


def main() -> None:
    from transformers.utils.logging import disable_progress_bar

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100, help="rounds of 16 questions with 8 completions")
    parser.add_argument("--arms", nargs="+", choices=[arm.name for arm in ARMS], default=[arm.name for arm in ARMS])
    options = parser.parse_args()
    arms = [arm for arm in ARMS if arm.name in options.arms]
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bar()
    curves: dict[Arm, list[Curve]] = {arm: [] for arm in arms}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as directory:
            base = Path(directory) / "base"
            make_base(settings(ARMS[0], seed, options.rounds, ""), base)
            for arm in arms:
                curves[arm].append(run(arm, seed, options.rounds, base))
                found = curves[arm][-1]
                shown = " ".join(f"{share:.2f}" for share in found.accuracy)
                print(f"seed {seed} {arm.name:16} {found.seconds:5.0f} s  {shown}", flush=True)
        print(table(curves), flush=True)


if __name__ == "__main__":
    main()
