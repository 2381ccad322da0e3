"""A step whose memory runs out is repeated with less memory, and gives what it gives undisturbed."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hivemind_exp.errors import OutOfMemory
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.source_kinds import Kind
from hivemind_exp.trainer import micro_batches
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from hivemind_exp.trainer.micro_batches import row_length, split
from hivemind_exp.trainer.step_measures import StepResult
from tests.support.memory_runs_out import MemoryRunsOut
from tests.support.nodes import Events, make_config, run
from tests.support.step_trainers import TOKENIZER, make_step_trainer, tiny_trainer

PLACES = random.Random(13).sample(range(1, 1000), 5)
"""Per mille of a step's operators."""


def rows(count: int = 8) -> tuple[TrainingRow, ...]:
    kinds = (Kind.POLICY, Kind.TEACHER)
    return tuple(
        TrainingRow(
            kinds[i % 2],
            "s",
            "t",
            i,
            (5,) * (3 + i % 4),
            tuple(range(20, 23 + 2 * i)),
            "",
            1.0,
            1.0 if i % 3 else -1.0,
            0,
        )
        for i in range(count)
    )


def manifest(micro_batch: int, count: int = 8) -> Manifest:
    return Manifest(0, 0, 7, micro_batch, rows(count), tokens=(100, 100))


def gradients(step_trainer: SourceGRPOTrainer) -> list[torch.Tensor]:
    return [p.grad.clone() for p in step_trainer.policy.parameters() if p.grad is not None]


def disturbed(
    root: Path, micro_batch: int, *times: int, **model: Any
) -> tuple[SourceGRPOTrainer, StepResult, list[tuple[int, str]]]:
    """Take a step whose memory runs out at these operators. Return the trainer, the result and what was said."""
    step_trainer, said = make_step_trainer(root, model=model), list[tuple[int, str]]()
    with MemoryRunsOut(times):
        result = step_trainer.step(
            manifest(micro_batch), shrunk=lambda changed, what: said.append((changed.micro_batch, what))
        )
    return step_trainer, result, said


def operators(root: Path, micro_batch: int, **model: Any) -> int:
    """Return how many operators compute a gradient."""
    step_trainer = make_step_trainer(root, model=model)
    with MemoryRunsOut() as counted:
        step_trainer._gradient(manifest(micro_batch), lambda: False)
    return counted.count


@pytest.mark.slow
@pytest.mark.parametrize("model", [{}, {"lora": {"rank": 4, "dropout": 0.5}}], ids=["all weights", "LoRA with dropout"])
def test_recomputed_activations_give_the_same_bits_wherever_memory_runs_out(
    tmp_path: Path, model: dict[str, Any]
) -> None:
    plain = make_step_trainer(tmp_path / "plain", model=model)
    expected, total = plain.step(manifest(4)), operators(tmp_path / "count", 4, **model)
    for place in PLACES:
        found, result, said = disturbed(tmp_path / str(place), 4, max(1, total * place // 1000), **model)
        assert result == expected, place
        assert all(map(torch.equal, gradients(found), gradients(plain))), place
        assert all(map(torch.equal, found.policy.state_dict().values(), plain.policy.state_dict().values()))
        [(size, what)] = said
        assert size == 4
        assert "ran out of memory in a step with 4 rows at a time, so the step is repeated" in what
        assert what.endswith("(model.gradient_checkpointing = true)")


@pytest.mark.slow
def test_a_halved_micro_batch_gives_the_same_gradient_wherever_memory_runs_out(tmp_path: Path) -> None:
    plain, half = make_step_trainer(tmp_path / "plain"), make_step_trainer(tmp_path / "half")
    expected, same_bits = plain.step(manifest(4)), half.step(manifest(2))
    total = operators(tmp_path / "count", 4)
    for place in PLACES:
        first = max(1, total * place // 1000)
        found, result, said = disturbed(tmp_path / str(place), 4, first, first + max(1, total * place // 1000))
        assert [size for size, _ in said] == [4, 2]
        assert said[1][1].endswith("the step is repeated with 2, the limit from now on (train.micro_batch = 2)")
        assert result == same_bits
        assert all(map(torch.equal, gradients(found), gradients(half)))
        assert result.loss == pytest.approx(expected.loss, abs=1e-6)
        for one, other in zip(gradients(found), gradients(plain), strict=True):
            assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.slow
def test_the_limit_stays_for_later_steps_and_for_log_probabilities(tmp_path: Path) -> None:
    step_trainer, _, _ = disturbed(tmp_path, 4, 1, 2)
    said: list[tuple[int, str]] = []
    step_trainer.step(replace(manifest(8), step=1), shrunk=lambda each, what: said.append((each.micro_batch, what)))
    assert said == [(2, "")]  # its manifest is recorded as it is taken
    assert step_trainer.micro_batch(rows()) == 2


@pytest.mark.slow
def test_log_probabilities_do_not_depend_on_where_memory_runs_out(tmp_path: Path) -> None:
    plain, small = make_step_trainer(tmp_path / "a"), make_step_trainer(tmp_path / "b")
    expected = plain.log_probabilities(rows())
    with MemoryRunsOut([3, 400, 500]):
        found = small.log_probabilities(rows())
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert small.micro_batch(rows()) < plain.micro_batch(rows())


@pytest.mark.slow
def test_memory_that_does_not_suffice_for_one_row_ends_the_step_with_advice(tmp_path: Path) -> None:
    step_trainer = make_step_trainer(tmp_path)
    before = [value.clone() for value in step_trainer.policy.state_dict().values()]
    with MemoryRunsOut(range(1, 10**6)), pytest.raises(OutOfMemory, match="a single row at a time") as caught:
        step_trainer.step(manifest(4))
    assert "generation.max_completion_tokens=256" in str(caught.value.next)
    assert all(map(torch.equal, before, step_trainer.policy.state_dict().values()))
    assert not gradients(step_trainer)


def test_a_row_from_others_that_does_not_fit_even_alone_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest row is a teacher's. Then the step gives what it gives without that row."""
    inputs = SourceGRPOTrainer._inputs
    room = max(map(row_length, rows()[:7]))

    def limited(self: SourceGRPOTrainer, batch: list[TrainingRow], *rest: Any) -> dict[str, Any]:
        if max(map(row_length, batch)) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inputs(self, batch, *rest)

    said: list[tuple[Manifest, str]] = []
    usual = make_step_trainer(tmp_path / "usual", model={"gradient_checkpointing": True})
    usual.step(replace(manifest(1), rows=rows()[:7]))
    monkeypatch.setattr(SourceGRPOTrainer, "_inputs", limited)
    step_trainer = make_step_trainer(tmp_path / "short")
    step_trainer.step(manifest(2), shrunk=lambda *about: said.append(about))
    assert all(map(torch.equal, gradients(usual), gradients(step_trainer)))
    left, why = said[-1]
    assert left.rows == rows()[:7]
    assert "1 from teacher are left out" in why
    assert "lower generation.max_completion_tokens (now 512)" in why
    said.clear()
    step_trainer.step(replace(manifest(1), step=1), shrunk=lambda *about: said.append(about))
    ((left, why),) = said  # not tried again
    assert left.rows == rows()[:7]
    assert why.startswith("left 2 completions from others out of steps so far")


def test_a_step_is_not_repeated_once_its_weights_may_have_moved(tmp_path: Path) -> None:
    step_trainer = make_step_trainer(tmp_path)
    total, said = operators(tmp_path / "count", 4), list[str]()
    with MemoryRunsOut([total + 40]), pytest.raises(torch.OutOfMemoryError):
        step_trainer.step(manifest(4), shrunk=lambda _, what: said.append(what))
    assert said == []


def test_other_errors_are_not_taken_for_too_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(SourceGRPOTrainer, "_gradient", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        make_step_trainer(tmp_path).step(manifest(4))


def test_a_cpu_always_gets_the_same_micro_batch_and_a_gpu_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make_step_trainer(tmp_path).micro_batch(rows()) == 4
    assert make_step_trainer(tmp_path, micro_batch=7).micro_batch(rows()) == 7
    long = tuple(replace(row, completion_ids=(9,) * 2000) for row in rows(64))
    sizes, lines = [], list[str]()
    for mib in (8, 64, 200, 4000):
        monkeypatch.setattr(micro_batches, "free_memory", lambda _, mib=mib: mib * 2**20)
        step_trainer = make_step_trainer(tmp_path)
        sizes.append(step_trainer.micro_batch(long, lines.append))
        assert step_trainer.policy.is_activation_checkpointing == (mib < 4000)
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[1] < sizes[2] <= sizes[3] == 64
    assert len(lines) == 3
    assert all("model.gradient_checkpointing = true" in line for line in lines)


def test_rows_are_sorted_so_that_little_padding_is_computed(tmp_path: Path) -> None:
    parts = list(split(list(rows()), 2))
    lengths = [[len(row.prompt_ids) + len(row.completion_ids) for row in part] for part in parts]
    assert lengths == sorted(lengths)
    assert max(lengths[0]) <= min(lengths[-1])
    step_trainer = make_step_trainer(tmp_path)
    for part, length in zip(parts, lengths, strict=True):
        batch = step_trainer._tensors(part)
        assert batch.ids.shape == (len(part), max(length))  # nothing beyond the longest row


@pytest.mark.slow
def test_a_node_records_the_micro_batch_it_used_and_a_replay_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = SourceGRPOTrainer._gradient

    def short(self: SourceGRPOTrainer, work: Manifest, should_stop: Any) -> StepResult:
        if work.step == 1 and work.micro_batch > 2:
            raise torch.OutOfMemoryError("out of memory")
        return compute(self, work, should_stop)

    monkeypatch.setattr(SourceGRPOTrainer, "_gradient", short)
    monkeypatch.setattr(Journal, "forget_manifests", lambda *_: None)
    config = make_config(game={"rounds": 3}, train={"micro_batch": "auto"}, checkpoint={"every": 9})
    events = Events()
    run(config, tmp_path / "node", emit=events)
    assert [each["message"].rpartition("(")[2] for each in events.of("warning") if each["code"] == "less_memory"] == [
        "model.gradient_checkpointing = true)",
        "train.micro_batch = 2)",
    ]
    monkeypatch.setattr(SourceGRPOTrainer, "_gradient", compute)
    journal = Journal(tmp_path / "node" / "journal.sqlite", "")
    manifests = list(journal.manifests(0))
    journal.close()
    assert [each.micro_batch for each in manifests] == [4, 2, 2]
    again = tiny_trainer(tmp_path / "again", config)
    again.policy.load_state_dict(untrained(config))
    for each in manifests:
        again.step(each)
    saved = sorted((tmp_path / "node" / "checkpoints").iterdir())[-1]
    trained = type(again.policy).from_pretrained(saved / "model").state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in again.policy.state_dict().items())


def untrained(config: Any) -> dict[str, torch.Tensor]:
    from hivemind_exp.models.loading import load_model

    model = load_model(config.model, TOKENIZER, dtype="float32", seed=config.node.seed)
    state: dict[str, torch.Tensor] = model.state_dict()
    return state
