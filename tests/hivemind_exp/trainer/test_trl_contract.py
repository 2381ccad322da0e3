"""What ``grpo_step`` relies on in TRL and transformers. A new version that changes any of it must fail here."""

from __future__ import annotations

import inspect
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from trl import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from hivemind_exp.config import Config
from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.models.tiny import build_model
from hivemind_exp.source_kinds import Kind
from hivemind_exp.trainer.grpo_step import HOOKS, SourceGRPOTrainer
from tests.support.step_trainers import TOKENIZER, tiny_trainer


@pytest.fixture
def step_trainer(tmp_path: Path) -> SourceGRPOTrainer:
    config = Config.model_validate({"model": {"name": "tiny"}, "generation": {"temperature": 0.7}})
    return tiny_trainer(tmp_path, config)


def test_every_hook_exists(step_trainer: SourceGRPOTrainer) -> None:
    assert [name for name in HOOKS if not hasattr(step_trainer, name)] == []


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_prepare_inputs", ["self", "generation_batch"]),
        ("_compute_loss", ["self", "model", "inputs"]),
        ("training_step", ["self", "model", "inputs", "num_items_in_batch"]),
    ],
)
def test_hooks_keep_their_parameters(name: str, parameters: list[str]) -> None:
    found = list(inspect.signature(getattr(GRPOTrainer, name)).parameters)
    assert found[: len(parameters)] == parameters


def test_a_training_step_passes_the_batch_to_the_loss_and_adds_its_plain_gradient(
    step_trainer: SourceGRPOTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    batch = {"marker": object()}

    def loss(model: torch.nn.Module, inputs: object) -> torch.Tensor:
        seen.append(inputs)
        return sum((p.sum() for p in model.parameters()), torch.zeros(()))

    monkeypatch.setattr(step_trainer, "_compute_loss", loss)
    step_trainer.current_gradient_accumulation_steps = 4
    for _ in range(2):
        step_trainer.training_step(step_trainer.model_wrapped, batch, None)
    assert seen == [batch, batch]
    # Two passes of gradient 1, neither averaged over accumulation steps nor scaled.
    for parameter in step_trainer.policy.parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, torch.full_like(parameter, 2.0))


def test_log_probabilities_and_entropies_match_the_tempered_softmax(step_trainer: SourceGRPOTrainer) -> None:
    rows = [
        TrainingRow(Kind.POLICY, "s", "t", 0, prompt, completion, "", 1.0, 1.0, 0)
        for prompt, completion in (((10, 11), (12, 13)), ((20, 21, 22), (23, 24, 25)), ((5, 6, 7, 8), (9,)))
    ]
    batch = step_trainer._tensors(rows)
    assert batch.ids.tolist()[0] == [10, 11, 12, 13, TOKENIZER.pad_token_id, TOKENIZER.pad_token_id]
    logps, entropies = step_trainer._score(step_trainer.model, batch)
    assert entropies is not None
    assert logps.requires_grad
    for row, found, spread in zip(rows, logps, entropies, strict=True):
        alone = torch.tensor([row.prompt_ids + row.completion_ids])
        with torch.no_grad():
            logits = step_trainer.model(input_ids=alone).logits[0, len(row.prompt_ids) - 1 : -1] / 0.7
        reference, count = torch.log_softmax(logits, dim=-1), len(row.completion_ids)
        expected = reference.gather(-1, torch.tensor(row.completion_ids).unsqueeze(-1)).squeeze(-1)
        assert torch.allclose(found[:count], expected, atol=1e-5)
        assert torch.allclose(spread[:count], -(reference.exp() * reference).sum(-1), atol=1e-5)


def test_the_reference_model_can_be_given_the_same_head() -> None:
    model = build_model(TOKENIZER, 0)
    add_fused_lm_head(model, temperature=1.0)
    ids = torch.tensor([[10, 11, 12]])
    output = model(input_ids=ids, labels=ids, fused_lm_head=True)
    expected = torch.log_softmax(model(input_ids=ids).logits[:, :-1], -1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    assert torch.allclose(output.log_probs, expected, atol=1e-5)


def test_metrics_are_lists_by_name_and_log_empties_them(step_trainer: SourceGRPOTrainer) -> None:
    assert isinstance(step_trainer._metrics["train"], defaultdict)
    step_trainer._metrics["train"]["x"].append(1.0)
    step_trainer.report({"loss": 1.0})
    assert not step_trainer._metrics["train"]
    assert step_trainer.state.log_history == []


def test_the_model_is_wrapped_only_once(step_trainer: SourceGRPOTrainer) -> None:
    assert step_trainer.policy is step_trainer.accelerator.unwrap_model(step_trainer.model_wrapped)
    assert step_trainer._tokenizer is TOKENIZER
