"""The loss of a micro-batch: log-probabilities, each kind's loss, the likelihood filter and the KL penalty."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from trl import GRPOTrainer

from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.losses.base import Loss
from hivemind_exp.losses.registry import choose_losses
from hivemind_exp.source_kinds import Kind
from hivemind_exp.train_settings import TrainConfig
from hivemind_exp.trainer.row_tensors import RowTensors, lay_out, score
from hivemind_exp.trainer.step_measures import Measuring
from hivemind_exp.trainer.token_rows import outside_answers, own_like, reverse_kl, token_rows


class RowLossTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer with a loss of rows from any source."""

    policy: PreTrainedModel

    def _prepare_losses(self, train: TrainConfig, reference: PreTrainedModel | None) -> None:
        self.train_config = train
        self._losses: Mapping[Kind, Loss] = choose_losses(train)
        self._reference = reference
        self._measuring = Measuring()
        """Within a step."""
        self._floor: float | None = None
        self._beside_answer = False
        """Whether the filter leaves out the answer's tokens. Steps of older manifests do not."""

    def _tensors(self, rows: Sequence[TrainingRow]) -> RowTensors:
        return lay_out(rows, self._tokenizer.pad_token_id, self.accelerator.device)

    def _score(self, model: torch.nn.Module, batch: RowTensors) -> tuple[Tensor, Tensor | None]:
        with self.accelerator.autocast():
            return score(model, batch)

    def _prepare_inputs(self, generation_batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch unchanged: it was generated, verified and weighed before the step."""
        return generation_batch

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Return the sum of the token losses, each multiplied by its kind's scale, over one micro-batch."""
        batch: RowTensors = inputs["batch"]
        mask = batch.mask
        logps, entropies = self._score(model, batch)
        assert entropies is not None
        divergence = self._divergence(batch, logps)
        total: Tensor = logps.new_zeros(())
        for kind in sorted({row.kind for row in batch.rows}):
            indices = [i for i, row in enumerate(batch.rows) if row.kind is kind]
            loss, rows = self._losses[kind], [batch.rows[i] for i in indices]
            picked = torch.tensor(indices, device=logps.device)
            kind_mask = mask[picked]
            tokens = token_rows(rows, logps[picked], kind_mask)
            scored = loss.score_tokens(tokens, self.train_config)
            token_loss, kl, filtered = scored.loss, torch.zeros_like(logps[picked]), torch.zeros(())
            if divergence is not None and loss.own:
                kl = divergence[picked]
                token_loss = token_loss + self.train_config.beta * kl
            if loss.likelihood_filter and self._floor is not None:
                beside = kind_mask
                if self._beside_answer:
                    beside = kind_mask * outside_answers(rows, kind_mask, self._tokenizer)
                kept = own_like(logps[picked], beside, self._floor)
                filtered = ~kept
                token_loss = token_loss * kept.unsqueeze(1)
            total = total + (token_loss * kind_mask).sum() * inputs["scales"][kind]
            clipped = torch.zeros_like(kl) if scored.clipped is None else scored.clipped
            measured = [value * kind_mask for value in (entropies[picked], kl, clipped, -logps[picked])]
            measured += [filtered.to(logps.device), *reverse_kl(tokens)]
            sampled = sum(row.sampled for row in rows)
            if inputs["counted"]:
                self._measuring.add(kind, sampled, measured, weighted=scored.clipped is not None)
        return total

    def _divergence(self, batch: RowTensors, logps: Tensor) -> Tensor | None:
        """Return the k3 estimate (Schulman 2020) of KL(π_θ ‖ π_ref), (B, T). None without a penalty."""
        if self.train_config.beta == 0:
            return None
        model, switched_off = self._reference, contextlib.nullcontext()
        if model is None:
            model, switched_off = self.model, self.policy.disable_adapter()
        with torch.no_grad(), switched_off:
            reference, _ = self._score(model, batch)
        difference: Tensor = reference - logps
        return torch.exp(difference) - difference - 1
