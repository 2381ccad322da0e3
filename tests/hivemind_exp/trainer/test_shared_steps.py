"""Steps and completions of two real processes, compared with those of one."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from hivemind_exp.errors import ProcessEnded
from hivemind_exp.journal.records import Manifest
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopFlag, StopRequested
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from hivemind_exp.trainer.shared_steps import compare_weights
from hivemind_exp.trainer.step_measures import StepMeasures
from tests.support.forked_members import ForkedMember
from tests.support.setting_effects import GROUPS
from tests.support.shared_steps import STEPS, config, differ, manifest, same, trainer, two, weights
from tests.support.step_trainers import TOKENIZER


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_exp.parallel.team.spawn", ForkedMember)


@pytest.mark.slow
@pytest.mark.parametrize("model", [{}, {"lora": {"rank": 4}}], ids=["all weights", "LoRA"])
def test_two_processes_compute_the_steps_and_completions_of_one(tmp_path: Path, model: dict[str, Any]) -> None:
    one_config, two_config = config(1, **model), config(2, **model)
    alone = trainer(one_config, tmp_path)
    before = weights(alone)
    with two(two_config, tmp_path / "node") as (team, together):
        for step in range(STEPS):
            same(alone.step(manifest(one_config, step)), together.step(manifest(two_config, step)))
        # One row leaves a process without any; a step on nothing still decays the moments.
        for step, rows in ((STEPS, slice(1)), (STEPS + 1, slice(0))):
            few = [manifest(each, step) for each in (one_config, two_config)]
            few = [Manifest(m.step, 0, m.seed, 3, m.rows[rows], tokens=m.tokens) for m in few]
            same(alone.step(few[0]), together.step(few[1]))
        assert differ(weights(alone), weights(together)) < 1e-5
        assert differ(weights(alone), before) > 1e-3
        compare_weights(team, together.trainable())

        saved = weights(together)
        (tmp_path / "checkpoint").mkdir()
        together.save(tmp_path / "checkpoint")
        together.step(manifest(two_config, STEPS + 2))
        assert differ(weights(together), saved) > 1e-5
        together.restore(tmp_path / "checkpoint")
        assert differ(weights(together), saved) == 0
        compare_weights(team, together.trainable())

        asked = [group.prompt for group in GROUPS]
        sources = [
            LocalSource(each.policy, TOKENIZER, one_config.generation, StopFlag(), team=who)
            for each, who in ((alone, None), (together, team))
        ]
        for seed in (1, None):
            found, expected = (source.generate(asked, 5, seed=seed) for source in reversed(sources))
            assert [[row.ids for row in rows] for rows in found] == [[row.ids for row in rows] for rows in expected]

        with torch.no_grad():
            together.trainable()[0].add_(1e-3)
        with pytest.raises(ProcessEnded, match="no longer have the same weights"):
            compare_weights(team, together.trainable())


@pytest.mark.slow
def test_a_step_is_repeated_if_memory_runs_out_and_a_killed_process_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(2)
    alone, compute = trainer(config(1), tmp_path), SourceGRPOTrainer.accumulate
    expected = alone.step(manifest(settings, 0))

    def short(self: SourceGRPOTrainer, work: Manifest, should_stop: Any) -> StepMeasures:
        if work.micro_batch > 1:
            raise torch.OutOfMemoryError("out of memory")
        return compute(self, work, should_stop)

    stop = StopFlag()
    with two(settings, tmp_path / "node", stop) as (team, together):
        monkeypatch.setattr(SourceGRPOTrainer, "accumulate", short)
        sizes: list[int] = []
        same(expected, together.step(manifest(settings, 0), shrunk=lambda work, _: sizes.append(work.micro_batch)))
        assert sizes == [3, 1]  # recomputed activations first
        monkeypatch.setattr(SourceGRPOTrainer, "accumulate", compute)
        assert together.step(manifest(settings, 1)).rows == expected.rows

        stop.set()
        with pytest.raises(StopRequested):
            team.check()
        stop.clear()
        (pid,) = team.pids
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ProcessEnded) as ended:
            together.step(manifest(settings, 2))
        assert ended.value.message.startswith("process 2 of 2 was killed (SIGKILL), probably by the kernel")
        assert ended.value.next == "swarmctl logs test --raw"
    gc.collect()


def test_what_processes_measure_adds_up() -> None:
    one = StepMeasures(0.5, {Kind.POLICY: [1.0] * 7}, {Kind.POLICY: 3}, frozenset({Kind.POLICY}))  # type: ignore[arg-type]
    other = StepMeasures(0.25, {Kind.POLICY: [2.0] * 7, Kind.PEER: [4.0] * 7}, {Kind.PEER: 2}, frozenset())  # type: ignore[arg-type]
    joint = StepMeasures.join([StepMeasures.unpack(one.pack()), StepMeasures.unpack(other.pack())])
    assert joint.loss == 0.75
    assert joint.sums == {Kind.POLICY: [3.0] * 7, Kind.PEER: [4.0] * 7}
    assert joint.tokens == {Kind.POLICY: 3, Kind.PEER: 2}
    assert joint.weighted == {Kind.POLICY}
