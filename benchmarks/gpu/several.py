"""Compare a node's step on several GPUs with the same step on one, in turn, in one run; and with a divided model.

The model has Qwen2.5-0.5B's shape and random weights. A step is generation of every completion and training on them.
First checks that all compute the same. Prints medians with the least and the most, the memory of the first GPU, and
ratios. "Several" processes hold the whole model each, "divided" ones a part (``train.shard``). If ``--rows`` names a
number and its multiple by the processes, also compares one GPU's step with one of as many rows on each GPU.

    python -m benchmarks.gpu.several
    python -m benchmarks.gpu.several --shape 1.5B --rows 64 --repeats 3
    python -m benchmarks.gpu.several --shape tiny --device cpu --rows 16 --tokens 12 --repeats 1
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.__main__ import LORA, about
from benchmarks.gpu.models import SHAPES, G, Work, build, release
from benchmarks.gpu.one_gpu import restart
from benchmarks.gpu.table import Bar, seconds, shown
from benchmarks.gpu.work import Cost, made_up, measured, prompts
from hivemind_exp.config import Config
from hivemind_exp.events import discard
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.models.device import Compute, share_gpus
from hivemind_exp.models.loading import load_tokenizer
from hivemind_exp.models.tiny import build_tokenizer
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.parallel.team import Team
from hivemind_exp.rollouts.types import Prompt, Rollout
from hivemind_exp.runner.build_node import ModelBuilder
from hivemind_exp.secrets import Secrets
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopFlag
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from hivemind_exp.trainer.shared_steps import compare_weights
from hivemind_exp.trainer.step_measures import StepResult

MODELS: dict[str, dict[str, Any]] = {"all weights": {}, "LoRA": LORA}
Groups = list[tuple[Prompt, tuple[Rollout, ...]]]


@dataclass
class Several:
    """A node's parts, which work alone or together with the other processes."""

    work: Work
    team: Team
    trainer: SourceGRPOTrainer
    source: LocalSource

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Use one process inside the block."""
        group = self.trainer.group
        self.trainer.team = self.trainer.group = self.source.team = None
        try:
            yield
        finally:
            self.trainer.team, self.trainer.group, self.source.team = self.team, group, self.team

    def generate(self, seed: int) -> Groups:
        asked = prompts(self.work, seed)
        return list(zip(asked, self.source.generate(asked, G, seed=seed), strict=True))

    def manifest(self, step: int, groups: Groups) -> Manifest:
        rows = tuple(
            TrainingRow(Kind.POLICY, "local", "t", number, p.ids, r.ids, "", 1.0, 1.0 if index % 2 else -1.0, 0)
            for number, (p, rollouts) in enumerate(groups)
            for index, r in enumerate(rollouts)
        )
        tokens = sum(len(row.completion_ids) for row in rows)
        return Manifest(step, step, step, self.trainer.micro_batch(rows), rows, tokens=(tokens, 0))


@contextmanager
def several(
    work: Work, processes: int, visible: list[str], model: dict[str, Any], *, shard: bool = False
) -> Iterator[Several]:
    """Build a node of so many processes, and end them. ``shard``: they divide the model."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "lock").touch()
        tokenizer = build_tokenizer()
        build(work, torch.float32).save_pretrained(root / "model")
        tokenizer.save_pretrained(root / "model")
        release()
        config = Config.model_validate(
            {
                "model": {**model, "name": str(root / "model"), "device": work.device},
                "train": {"processes": processes, "shard": shard},
                "game": {"groups": work.rows // G, "group_size": G},
                "generation": {
                    "max_completion_tokens": work.tokens,
                    "max_prompt_tokens": work.prompts[1],
                },
            }
        )
        files, stop = NodeFiles(root), StopFlag()
        where = {"device": work.device, "dtype": work.dtype}
        with closing(Team(config, files, stop, **where, visible=visible)) as team:
            tokenizer = load_tokenizer(config.model, None)
            builder = ModelBuilder(config, files, discard, stop, Secrets(), Compute(**where, accelerator=None))
            trainer = builder.step_trainer(tokenizer, None, None)
            team.ask("load", None)
            trainer.lead(team)
            how: dict[str, Any] = {"_dtype": work.dtype, "team": team, "whole": trainer.whole}
            source = LocalSource(trainer.generator, tokenizer, config.generation, stop, **how)
            try:
                yield Several(work, team, trainer, source)
            finally:
                trainer.close()
                del trainer, source
    release()


def check(made: Several) -> tuple[str, StepResult]:
    """Take steps together. Return how far the first one's result is from that of one process, and that one.

    Raises ``ProcessEnded`` if the processes end with different weights.
    """
    manifest = made.manifest(0, made_up(made.work, 0))
    with made.alone():
        one = made.trainer._gradient(manifest, lambda: False)
    several, *_ = [made.trainer.step(replace(manifest, step=step)) for step in range(3)]
    compare_weights(made.team, made.trainer.trainable())
    return f"same weights in all processes after 3 steps; {difference(several, one)}", one


def check_divided(made: Several, one: StepResult) -> str:
    """Take a step with a divided model. Return how far its result is from that of one process."""
    return difference(made.trainer.step(made.manifest(0, made_up(made.work, 0))), one)


def difference(result: StepResult, one: StepResult) -> str:
    loss, norm = abs(result.loss - one.loss), abs(result.grad_norm / one.grad_norm - 1)
    return f"loss differs by {loss:.1e}, gradient norm by {norm:.1e} of it"


def compare(
    made: Several, repeats: int, ways: Mapping[str, Callable[[], AbstractContextManager[None]]]
) -> dict[str, list[Cost]]:
    """Return the costs of each part in each way, in turn. The processes' weights may differ afterwards."""
    found = dict[str, list[Cost]]()
    for turn in range(repeats + 2):
        manifest = made.manifest(1, made_up(made.work, turn))

        def generate(turn: int = turn) -> int:
            return sum(len(rollout.ids) for _, rollouts in made.generate(turn) for rollout in rollouts)

        def train(manifest: Manifest = manifest) -> int:
            made.trainer.step(manifest)
            made.trainer.free_gradients()
            return 0

        for name, run in (("generation", generate), ("training", train)):
            for which, way in ways.items():
                with way():
                    cost = measured(made.work, run)
                if turn >= 2:
                    found.setdefault(f"{name}, {which}", []).append(cost)
    for which in ways:
        pairs = zip(found[f"generation, {which}"], found[f"training, {which}"], strict=True)
        found[f"step, {which}"] = [Cost(a.seconds + b.seconds, max(a.peak, b.peak)) for a, b in pairs]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--shape", choices=SHAPES, default="0.5B")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--without-divided", action="store_true", help="leave out the divided model")
    parser.add_argument("--output", type=Path, help="write all figures to this file, as JSON")
    parser.add_argument("--visible", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and options.visible is None:
        restart("benchmarks.gpu.several", share_gpus(options.processes))
    visible = options.visible or []
    print(", ".join(about()), f"{options.processes} processes", sep=", ")
    bars, figures = list[Bar](), dict[str, Any]()
    steps = dict[tuple[str, int], tuple[list[Cost], list[Cost]]]()
    for rows in options.rows:
        work = Work(options.shape, rows, device=options.device, tokens=options.tokens)
        for name, model in MODELS.items():
            if options.only not in (None, name):
                continue
            with several(work, options.processes, visible, model) as made:
                told, alone = check(made)
                print(f"{name}, {rows} rows: {told}", flush=True)
                found = compare(made, options.repeats, {"one": made.alone, "several": nullcontext})
            del made
            if not options.without_divided:
                with several(work, options.processes, visible, model, shard=True) as made:
                    print(f"{name}, {rows} rows, divided: {check_divided(made, alone)}", flush=True)
                    found |= compare(made, options.repeats, {"divided": nullcontext})
                del made
            steps[name, rows] = found["step, one"], found["step, several"]
            figures |= {f"{name}, {rows}, {part}": list(map(asdict, costs)) for part, costs in found.items()}
            for part in ("generation", "training", "step"):
                one, together = (found[f"{part}, {which}"] for which in ("one", "several"))
                ratio = seconds(one) / seconds(together)
                title = f"{part}, {name}, {rows} × {work.tokens}"
                print(f"{title:38} one     {shown(one)}", flush=True)
                print(f"{'':38} several {shown(together)} | {ratio:.2f} x", flush=True)
                if divided := found.get(f"{part}, divided"):
                    print(f"{'':38} divided {shown(divided)} | {seconds(one) / seconds(divided):.2f} x", flush=True)
                bars.append(Bar(title, ratio, 0.9 * options.processes, "x", True))
    for (name, rows), (one, _) in steps.items():
        if (more := steps.get((name, rows * options.processes))) is not None:
            ratio = options.processes * seconds(one) / seconds(more[1])
            bars.append(Bar(f"rows per second, {name}, {rows} on each", ratio, 0.9 * options.processes, "x", True))
    if options.output is not None:
        options.output.write_text(json.dumps({"about": list(about()), **figures}, indent=1))
    print()
    for bar in bars:
        print(bar)


if __name__ == "__main__":
    main()
