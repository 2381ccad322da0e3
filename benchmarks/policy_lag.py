"""Learn from completions of a node's own older weights: how much a lag costs, with and without the correction.

A tiny model that spells some words backward is trained on samples of the weights that it had some steps before, as if a
server answered with them. "Corrected" uses the loss of ``kind = "policy"``: each token weighs min(π/π_behaviour, 2).
"Uncorrected" treats the samples as if the newest weights had written them.

    python -m benchmarks.policy_lag                       # prints a table of accuracies
    python -m benchmarks.policy_lag --rounds 60 --seeds 1
    python -m benchmarks.policy_lag --lags 0 1 2 --without-uncorrected
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.offload_learning import HALF, make_base
from hivemind_exp.config import Config
from hivemind_exp.game.sampling.game import build_prompts
from hivemind_exp.journal.records import Manifest
from hivemind_exp.models.loading import load_model, load_tokenizer
from hivemind_exp.rollouts.types import Group, Prompt, Rollout
from hivemind_exp.seeds import derive_seed
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.trainer.advantages import build_rows, count_tokens
from hivemind_exp.trainer.evaluation import evaluate
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer

GROUPS, SIZE, QUESTIONS, LOOKS = 8, 8, 100, 4


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to learn."""

    lag: int
    corrected: bool

    @property
    def name(self) -> str:
        return f"lag {self.lag}" + ("" if not self.lag else ", corrected" if self.corrected else ", uncorrected")


def arms(lags: Sequence[int], *, uncorrected: bool) -> list[Arm]:
    """Return the arms to compare: each lag, and with ``uncorrected`` again without the correction."""
    return [Arm(lag, kind) for lag in lags for kind in ((True, False) if uncorrected and lag else (True,))]


def settings(seed: int, rate: float) -> Config:
    return Config.model_validate(
        {
            "node": {"name": "lag", "seed": seed},
            "model": {"name": "tiny", "device": "cpu", "threads": 1},
            "tasks": [{"name": "spell_backward", "params": {"min_word_len": 3, "max_word_len": 5}}],
            "game": {"groups": GROUPS, "group_size": SIZE},
            "generation": {"max_prompt_tokens": 64, "max_completion_tokens": 16, "batch": GROUPS * SIZE},
            "train": {"learning_rate": rate, "micro_batch": GROUPS * SIZE, "warmup_steps": 0, "max_lag": 64},
            "warmup": {"steps": HALF.steps, "batch": 64, "learning_rate": 2e-3},
        }
    )


def behaviour(model: Any, prompts: Sequence[Prompt], rows: Sequence[Rollout]) -> list[Rollout]:
    """Return rows with the log-probabilities of the weights that sampled them."""
    import torch

    width = max(len(prompt.ids) + len(row.ids) for prompt, row in zip(prompts, rows, strict=True))
    ids, mask = torch.zeros((len(rows), width), dtype=torch.long), torch.zeros((len(rows), width), dtype=torch.long)
    for place, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        whole = torch.tensor([*prompt.ids, *row.ids])
        ids[place, : len(whole)], mask[place, : len(whole)] = whole, 1
    with torch.no_grad():
        logps = torch.log_softmax(model(input_ids=ids, attention_mask=mask).logits[:, :-1].float(), -1)
    picked = logps.gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2).tolist()
    starts = [len(prompt.ids) - 1 for prompt in prompts]
    return [
        replace(row, behaviour_logps=tuple(values[start : start + len(row.ids)]))
        for row, values, start in zip(rows, picked, starts, strict=True)
    ]


def learn(arm: Arm, config: Config, rounds: int, base: Path, tasks: Mixture) -> list[float]:
    """Return the accuracy on held-out questions at the start and at ``LOOKS`` later rounds."""
    seed = config.node.seed
    tokenizer = load_tokenizer(config.model)
    where = config.model.model_copy(update={"name": str(base)})
    # Two models, not a copy: TRL gives a model a ``forward`` that a copy of it would share.
    model, server = (load_model(where, tokenizer, dtype="float32", seed=0) for _ in range(2))
    with tempfile.TemporaryDirectory() as output:
        trainer = SourceGRPOTrainer(model, tokenizer, config, Path(output), device="cpu", dtype="float32")
        policy = trainer.policy
        source = LocalSource(policy, tokenizer, config.generation, StopFlag())
        sampler = LocalSource(server, tokenizer, config.generation, StopFlag())
        held_out = build_prompts(tasks.questions("heldout", 0, QUESTIONS), tokenizer)
        accuracies = [evaluate(0, source, held_out, tasks).accuracy]
        versions: deque[dict[str, Any]] = deque(maxlen=arm.lag + 1)
        for round_ in range(rounds):
            versions.append({name: each.clone() for name, each in policy.state_dict().items()})
            server.load_state_dict(versions[0])
            prompts = build_prompts(tasks.questions("train", round_, GROUPS), tokenizer)
            made = sampler.generate(prompts, SIZE, seed=derive_seed(seed, "lag", round_))
            groups = []
            for prompt, completions in zip(prompts, made, strict=True):
                rows = [replace(row, lag=len(versions) - 1) for row in completions]
                if arm.corrected:
                    rows = behaviour(server.eval(), [prompt] * SIZE, rows)
                scores = tasks.score([prompt.question] * SIZE, [row.text for row in rows])
                groups.append(Group(prompt, tuple(rows), tuple(scores)))
            kept, tokens = build_rows(groups, config.train, {}), count_tokens(groups, config.train)
            trainer.step(Manifest(round_, round_, derive_seed(seed, round_), GROUPS * SIZE, tuple(kept), tokens=tokens))
            if (round_ + 1) % max(1, rounds // LOOKS) == 0:
                accuracies.append(evaluate(round_ + 1, source, held_out, tasks).accuracy)
        trainer.close()
    return accuracies


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--lags", type=int, nargs="+", default=[0, 4, 16])
    parser.add_argument("--without-uncorrected", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory) / "base"
        config = settings(0, options.learning_rate)
        make_base(HALF, config, base)
        with closing(Mixture(config.tasks, charter=b"lag", secret=b"", heldout=QUESTIONS)) as tasks:
            for arm in arms(options.lags, uncorrected=not options.without_uncorrected):
                runs = [
                    learn(arm, settings(seed, options.learning_rate), options.rounds, base, tasks)
                    for seed in range(options.seeds)
                ]
                medians = [statistics.median(each) for each in zip(*runs, strict=True)]
                ends = " ".join(f"{run[-1]:.2f}" for run in runs)
                curve = " ".join(f"{each:.2f}" for each in medians)
                print(f"{arm.name:22} {curve}   (last, by seed: {ends})", flush=True)
    print(f"{options.rounds} rounds of {GROUPS} groups of {SIZE}, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
