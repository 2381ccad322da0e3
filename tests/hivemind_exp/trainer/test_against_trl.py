"""With only local rollouts, a step equals plain TRL's step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from hivemind_exp.config import Config
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.losses.base import GroupRows
from hivemind_exp.losses.policy import weigh
from hivemind_exp.models.tiny import build_model, build_tokenizer
from hivemind_exp.source_kinds import Kind
from hivemind_exp.train_settings import TrainConfig
from tests.support.step_trainers import tiny_trainer

STEPS, GROUPS, G = 5, 4, 4
CONFIG = Config.model_validate(
    {
        "model": {"name": "tiny", "device": "cpu"},
        "game": {"groups": GROUPS, "group_size": G},
        "train": {"learning_rate": 1e-3, "warmup_steps": 3, "micro_batch": GROUPS * G},
        "generation": {"max_completion_tokens": 12},
    }
)


def make_rollouts(step: int) -> list[tuple[list[int], list[int], float]]:
    """Return prompt ids, completion ids and reward of each row. In group 1 all rewards are equal."""
    generator = torch.Generator().manual_seed(step)
    rows = []
    for group in range(GROUPS):
        prompt = torch.randint(3, 100, (5 + group,), generator=generator).tolist()
        for member in range(G):
            length = int(torch.randint(1, 12, (1,), generator=generator))
            completion = [*torch.randint(3, 100, (length,), generator=generator).tolist(), 1]
            rows.append((prompt, completion, 1.0 if group == 1 else float((member + step) % 3 == 0)))
    return rows


def plain_trl(tmp_path: Path) -> tuple[dict[str, torch.Tensor], list[float]]:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, 0)
    calls = iter(range(STEPS))
    losses: list[float] = []

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        rows = make_rollouts(next(calls))
        assert len(prompts) == len(rows)
        return {
            "prompt_ids": [row[0] for row in rows],
            "completion_ids": [row[1] for row in rows],
            "logprobs": None,
            "verified": [row[2] for row in rows],
        }

    def reward(verified: list[float], **_: Any) -> list[float]:
        return verified

    class Recorder(GRPOTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(*args, **kwargs)
            losses.append(loss.item())
            return loss

    args = GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        max_steps=STEPS,
        learning_rate=1e-3,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=3,
        per_device_train_batch_size=GROUPS * G,
        num_generations=G,
        max_completion_length=12,
        epsilon_high=0.28,
        optim="adamw_torch",
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        loss_type="dapo",
        beta=0.0,
    )
    trainer = Recorder(
        model=model,
        reward_funcs=[reward],
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["a"] * 64}),
        processing_class=tokenizer,
        rollout_func=rollout,
    )
    trainer.train()
    return trainer.model.state_dict(), losses


def ours(tmp_path: Path, micro_batch: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    step_trainer = tiny_trainer(tmp_path, CONFIG)
    losses = [step_trainer.step(make_manifest(step, micro_batch)).loss for step in range(STEPS)]
    return step_trainer.policy.state_dict(), losses


def make_manifest(step: int, micro_batch: int) -> Manifest:
    made = make_rollouts(step)
    rows = []
    for group in range(GROUPS):
        members = made[group * G : (group + 1) * G]
        outcomes = torch.tensor([reward for _, _, reward in members])
        advantages = weigh(
            GroupRows(outcomes, torch.ones(G, dtype=torch.bool), (0,) * G, ("",) * G, outcomes), TrainConfig()
        ).tolist()
        rows += [
            TrainingRow(Kind.POLICY, "local", "t", group, tuple(prompt), tuple(ids), "", reward, advantage, 0)
            for (prompt, ids, reward), advantage in zip(members, advantages, strict=True)
        ]
    return Manifest(step, step, step, micro_batch, tuple(rows))


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [GROUPS * G, 5])
def test_same_losses_and_weights_as_plain_trl_after_five_steps(tmp_path: Path, micro_batch: int) -> None:
    expected, expected_losses = plain_trl(tmp_path / "trl")
    weights, losses = ours(tmp_path / "ours", micro_batch)
    assert losses == pytest.approx(expected_losses, abs=1e-5)
    assert any(abs(loss) > 1e-4 for loss in losses)
    start = build_model(build_tokenizer(), 0).state_dict()
    moved = max((expected[name] - start[name]).abs().max().item() for name in expected)
    assert moved > 1e-3
    for name, value in expected.items():
        assert (weights[name] - value).abs().max().item() <= 1e-5, name
