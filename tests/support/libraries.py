"""What nodes, engines and ``swarmctl`` import and prepare, and the tests with them."""

from __future__ import annotations

from importlib import import_module

from transformers import conversion_mapping

from hivemind_exp.processes.imports import uncollected
from swarmctl import cli


def import_all() -> None:
    """Import and prepare it."""
    with uncollected():
        for name in (
            "hivemind_exp.models.loading",
            "hivemind_exp.runner.build_node",
            "hivemind_exp.runner.build_swarm",
            "hivemind_exp.runner.choose_style",
            "hivemind_exp.runner.grpo_runner",
            "hivemind_exp.sources.generation",
            "hivemind_exp.trained.answering",
            "hivemind_exp.trained.merging",
            "hivemind_exp.trainer.hivemind_grpo_trainer",
            "openai",
            "pytest",
            "tests.support.chaos.forked",
            "tests.support.engine_rig",
            "tests.support.fake_api.server",
            "tests.support.forked_swarmctl",
            "tests.support.hostile.arena",
            "tests.support.nodes",
        ):
            import_module(name)
        cli.tree()  # what each command would build first
        conversion_mapping.get_checkpoint_conversion_mapping("llama")  # and each process that saves or loads a model
