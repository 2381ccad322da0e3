"""Steps and completions of two real processes that divide the model, compared with those of one with all of it."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from hivemind_exp.config import Config
from hivemind_exp.errors import OutOfMemory, ProcessEnded
from hivemind_exp.journal.records import Manifest
from hivemind_exp.parallel.sharding import local
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopFlag
from hivemind_exp.trainer.checkpoints import MODEL, STATE
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from hivemind_exp.trainer.sharded_grpo_step import ShardedGRPOTrainer
from tests.support.forked_members import ForkedMember
from tests.support.setting_effects import GROUPS
from tests.support.shared_steps import STEPS, config, manifest, same, trainer, two
from tests.support.step_trainers import TOKENIZER


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_exp.parallel.team.spawn", ForkedMember)


def saved(step_trainer: SourceGRPOTrainer, directory: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Write a checkpoint; return its weights and the optimizer's state."""
    directory.mkdir()
    step_trainer.save(directory)
    (weights,) = (directory / MODEL).glob("*.safetensors")
    state: dict[str, Any] = torch.load(directory / STATE, weights_only=True)["optimizer"]
    return load_file(weights), state


def furthest(one: dict[Any, torch.Tensor], other: dict[Any, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in other.items()}
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def few(settings: Config, step: int, rows: int) -> Manifest:
    made = manifest(settings, step)
    return Manifest(step, 0, made.seed, 3, made.rows[:rows], tokens=made.tokens)


@pytest.mark.slow
@pytest.mark.parametrize("model", [{}, {"lora": {"rank": 4}}], ids=["all weights", "LoRA"])
def test_a_divided_model_takes_the_steps_of_a_whole_one_and_they_share_checkpoints(
    tmp_path: Path, model: dict[str, Any]
) -> None:
    one_config, divided_config = config(1, **model), config(2, shard=True, **model)
    alone = trainer(one_config, tmp_path)
    with two(divided_config, tmp_path / "node") as (team, divided):
        assert isinstance(divided, ShardedGRPOTrainer)
        for step in range(STEPS):
            same(alone.step(manifest(one_config, step)), divided.step(manifest(divided_config, step)))
        # One row leaves a process without any; a step on nothing still decays the moments.
        for step, rows in ((STEPS, 1), (STEPS + 1, 0)):
            same(alone.step(few(one_config, step, rows)), divided.step(few(divided_config, step, rows)))
        _assert_half(alone, divided)

        whole, whole_state = saved(alone, tmp_path / "of one")
        joined, joined_state = saved(divided, tmp_path / "of two")
        assert furthest(whole, joined) < 1e-5
        assert whole_state["param_groups"] == joined_state["param_groups"]
        assert whole_state["state"].keys() == joined_state["state"].keys()
        for place, values in whole_state["state"].items():
            assert furthest(values, joined_state["state"][place]) < 1e-5

        asked = [group.prompt for group in GROUPS]
        sources = [
            LocalSource(alone.generator, TOKENIZER, one_config.generation, StopFlag()),
            LocalSource(
                divided.generator, TOKENIZER, one_config.generation, StopFlag(), team=team, whole=divided.whole
            ),
        ]
        for seed in (1, None):
            expected, found = (source.generate(asked, 5, seed=seed) for source in sources)
            assert [[row.ids for row in rows] for rows in found] == [[row.ids for row in rows] for rows in expected]
        assert sum(weight.untyped_storage().size() for weight in divided.generator.parameters()) == 0
        rows = manifest(one_config, 0).rows
        for known, scored in zip(alone.log_probabilities(rows), divided.log_probabilities(rows), strict=True):
            assert scored == pytest.approx(known, abs=1e-4)

        divided.step(manifest(divided_config, STEPS + 2))
        divided.restore(tmp_path / "of one")
        assert furthest(saved(divided, tmp_path / "restored")[0], whole) == 0
        for each in (alone, divided):
            each.policy.activation_checkpointing_enable()
        after = alone.step(manifest(one_config, STEPS + 3))
        same(after, divided.step(manifest(divided_config, STEPS + 3)))
    # From the checkpoint of one process with a divided model, and the other way around.
    same(after, trainer(one_config, tmp_path, tmp_path / "of two").step(manifest(one_config, STEPS + 3)))
    with two(divided_config, tmp_path / "later", checkpoint=tmp_path / "of one") as (_, later):
        same(after, later.step(manifest(divided_config, STEPS + 3)))


def _assert_half(alone: SourceGRPOTrainer, divided: SourceGRPOTrainer) -> None:
    """Assert that a process holds about half of the weights, gradients and moments."""
    for held in (_weights, _gradients, _moments):
        assert sum(held(divided)) == pytest.approx(sum(held(alone)) / 2, rel=0.02)


def _weights(made: SourceGRPOTrainer) -> list[int]:
    return [local(each).nbytes for each in made.policy.parameters()]


def _gradients(made: SourceGRPOTrainer) -> list[int]:
    return [local(each.grad).nbytes for each in made.trainable() if each.grad is not None]


def _moments(made: SourceGRPOTrainer) -> list[int]:
    return [local(each[name]).nbytes for each in made.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]


@pytest.mark.slow
def test_a_process_without_memory_and_a_killed_one_end_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, compute = config(2, shard=True), ShardedGRPOTrainer._inputs

    def short(self: ShardedGRPOTrainer, *args: Any) -> dict[str, Any]:
        assert self.group is not None
        if self.group.place == 1:
            raise torch.OutOfMemoryError("out of memory")
        return compute(self, *args)

    sizes: list[int] = []
    monkeypatch.setattr(ShardedGRPOTrainer, "_inputs", short)
    with two(settings, tmp_path / "short") as (_, divided), pytest.raises(OutOfMemory) as ran_out:
        divided.step(manifest(settings, 0), shrunk=lambda work, _: sizes.append(work.micro_batch))
    assert ran_out.value.message == "the accelerator ran out of memory in another process of this node"
    assert sizes == [1]  # of 3: what the node repeats after a restart

    def stop_the_other(self: ShardedGRPOTrainer, *args: Any) -> dict[str, Any]:
        assert self.group is not None
        if self.group.place == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return compute(self, *args)

    monkeypatch.setattr(ShardedGRPOTrainer, "_inputs", stop_the_other)
    with two(settings, tmp_path / "killed") as (_, divided), pytest.raises(ProcessEnded) as ended:
        divided.step(manifest(settings, 0))
    assert ended.value.message.startswith("process 2 of 2 was killed (SIGKILL), probably by the kernel")

    def short_here(self: ShardedGRPOTrainer, *args: Any) -> dict[str, Any]:
        assert self.group is not None
        if self.group.place == 0:
            raise torch.OutOfMemoryError("out of memory")
        return compute(self, *args)

    monkeypatch.setattr(ShardedGRPOTrainer, "_inputs", short_here)
    with two(settings, tmp_path / "here") as (_, divided), pytest.raises(OutOfMemory) as ran_out:
        divided.step(manifest(settings, 0))
    assert ran_out.value.message == "the accelerator ran out of memory while it took a step with 3 rows at a time"
    assert ran_out.value.next == "swarmctl run --node test --set train.micro_batch=1"
    gc.collect()


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ({"train": {"processes": 1}}, "train.shard needs train.processes"),
        ({"train": {"optimizer": "adamw-8bit"}}, "moments in 8 bits cannot be divided"),
        ({"model": {"load_in_4bit": True, "lora": {}}}, "weights in 4 bits cannot be divided"),
        ({"model": {"fused_kernels": True}}, "fused kernels are not tested"),
        ({"model": {"dtype": "float16"}}, "its scaler needs all of it"),
        ({"offload": {"kind": "policy"}}, "no process has all the weights"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_the_reason(tables: dict[str, Any], why: str) -> None:
    train = {"processes": 2, "shard": True} | tables.get("train", {})
    Config.model_validate(tables | {"train": train | {"shard": False}})
    with pytest.raises(ValidationError, match=why):
        Config.model_validate(tables | {"train": train})
