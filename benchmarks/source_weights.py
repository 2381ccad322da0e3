"""Measure what one surviving row of a peer weighs beside a node's own rows, with the old and the new denominators.

A tiny model that spells some words backward samples 8 groups of 8. One more group comes from a peer, and one of its
rows is left. The old denominators were the tokens of all own rows for those, and of the rows left for the peer's.

    python -m benchmarks.source_weights
"""

from __future__ import annotations

import os
import statistics
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from benchmarks.offload_learning import HALF, make_base
from benchmarks.swarm_arms import GROUP_SIZE, Arm
from benchmarks.swarm_learning import Node, Post, settings
from hivemind_exp.config import Config
from hivemind_exp.game.sampling.game import build_prompts
from hivemind_exp.journal.records import Manifest
from hivemind_exp.losses.registry import choose_losses
from hivemind_exp.rollouts.types import Group
from hivemind_exp.seeds import derive_seed
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.trainer.advantages import build_rows, count_tokens
from hivemind_exp.trainer.token_rows import token_scales

ROUNDS = 8


def main() -> None:
    import torch

    torch.set_num_threads(1)
    arm = Arm(8)
    config = settings(arm, 0)
    losses, weight = choose_losses(config.train), config.train.off_policy_weight
    weights: dict[str, list[float]] = {"old": [], "new": []}
    shares: dict[str, list[float]] = {"old": [], "new": []}
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(Mixture(config.tasks, charter=b"weights", secret=b"", heldout=0)) as tasks,
    ):
        base, root = Path(directory) / "base", Path(directory)
        warm = {"warmup": {"steps": HALF.steps, "batch": 64, "learning_rate": 2e-3}}
        make_base(HALF, Config.model_validate(config.model_dump() | warm), base)
        with closing(Node(arm, 0, settings(arm, derive_seed(0, "node", 0)), root, tasks, Post(), base=base)) as node:
            state = {name: value.clone() for name, value in node.step_trainer.policy.state_dict().items()}
            for round_ in range(ROUNDS):
                questions = tasks.questions("train", round_, 9)
                prompts = build_prompts(questions, node.tokenizer)
                groups = []
                for prompt, rows in zip(prompts, node.source.generate(prompts, GROUP_SIZE, seed=round_), strict=True):
                    scores = tasks.score([prompt.question] * GROUP_SIZE, [row.text for row in rows])
                    groups.append(Group(prompt, tuple(rows), tuple(scores)))
                own, theirs = groups[:8], groups[8]
                peer = replace(theirs, rollouts=tuple(replace(row, kind=Kind.PEER) for row in theirs.rollouts))
                kept = build_rows(own, config.train, {})
                right = [row for row in kept if row.advantage > 0]
                left = build_rows([peer], config.train, {})[:1]
                if not right or not left:
                    continue
                manifest = Manifest(
                    round_, round_, 0, 128, (*kept, *left), None, count_tokens([*own, peer], config.train)
                )
                new = token_scales(manifest, losses, weight)
                old = token_scales(replace(manifest, tokens=None), losses, weight)
                advantage = statistics.fmean(row.advantage for row in right)
                for name, scale in (("old", old), ("new", new)):
                    weights[name].append(left[0].advantage * scale[Kind.PEER] / (advantage * scale[Kind.POLICY]))
                    # The old denominators, as a factor on the peer's advantage: so its part can be measured.
                    factor = scale[Kind.PEER] / new[Kind.PEER] * new[Kind.POLICY] / scale[Kind.POLICY]
                    learned = (*kept, *(replace(row, advantage=factor * row.advantage) for row in left))
                    node.step_trainer.policy.load_state_dict(state)
                    result = node.step_trainer.step(replace(manifest, rows=learned)).by_kind
                    norms = [float(result[kind]["source_grad_norm"] or 0) for kind in (Kind.POLICY, Kind.PEER)]
                    shares[name].append(norms[0] / sum(norms))
    print("denominators  weight of the peer's row, in own correct rows  own part of the gradient's norms")
    for name, found in weights.items():
        print(f"{name:12}  {statistics.median(found):44.1f}  {100 * statistics.median(shares[name]):30.0f} %")


if __name__ == "__main__":
    main()
