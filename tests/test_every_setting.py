"""Every setting has an effect: changing it changes a tensor, a request, a file or a message.

For each field of the configuration and its nested tables, the table names an observer and two values that it can
distinguish. For a field that needs real processes, it names the test that shows the effect. Every field must be listed.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import BaseModel

from hivemind_exp.config import Config
from tests.support import offload_effects as api
from tests.support import setting_effects as see
from tests.support.nodes import make_config
from tests.support.tiny_models import save_llama

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
BOX: dict[str, Any] = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "free": True}
OFFLOAD: dict[str, Any] = {"offload": {"provider": "box"}, "providers": {"box": BOX, "other": BOX}}
JUDGE: dict[str, Any] = {
    "judge": {"provider": "box"},
    "providers": {"box": BOX, "other": {**BOX, "base_url": "http://127.0.0.1:8/v1"}},
}
PRICED = {"offload": {"provider": "box", "prices": {"box": {"input": 1.0, "output": 2.0}}}}
PRICED |= {"providers": {"box": {**BOX, "free": False}}}
REASONING: dict[str, Any] = {"offload": {"provider": "openai:o4-mini", "fallback": []}}
ASKED = {"offload": {"provider": "box", "kind": "policy", "share": 0.5, "ahead": 0}, "providers": {"box": BOX}}
SHORT = {"game": {"rounds": 2, "groups": 1, "group_size": 4}, "eval": {"every": 1, "questions": 2}}
SHORT |= {"checkpoint": {"every": 1, "keep": 2}, "generation": {"max_completion_tokens": 4, "max_prompt_tokens": 64}}
LORA = {"model": {"name": "tiny", "device": "cpu", "lora": {"rank": 4}}}
STEP = {"train": {"learning_rate": 1e-2, "warmup_steps": 0, "beta": 0.1, "peer_loss": "sapo"}}
SWITCH = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "[assistant]{% if enable_thinking %}<think>{% else %}<think></think>{% endif %}"
)
SWARM = "swarm1:" + "0" * 64

TABLE: dict[str, tuple[see.Observer, dict[str, Any], Any, Any] | str] = {
    "node.name": (see.part("name"), SHORT, "one", "two"),
    "node.seed": (see.stepped, LORA | STEP, 1, 2),
    "node.fresh": "tests/swarmctl/nodes/test_directory.py::test_only_a_node_that_starts_over_is_emptied",
    "model.name": (see.located, {}, "tiny", "LLAMA"),
    "model.revision": (
        "tests/hivemind_exp/models/test_loading.py::test_models_load_from_the_hub_or_the_error_has_the_exact_reason"
    ),
    "model.device": (see.chosen_device, {}, "cpu", "cuda:99"),
    "model.dtype": (see.stepped, STEP, "float32", "bfloat16"),
    "model.threads": (see.part("threads"), SHORT, 1, 2),
    "model.fused_kernels": (
        "tests/hivemind_exp/models/test_fused_kernels.py"
        "::test_a_model_stays_as_it_is_without_a_card_or_if_they_are_off_or_for_another_family"
    ),
    "model.thinking": (see.prompt_ids, {"model": {"name": "SWITCH"}}, True, False),
    "model.lora.rank": (see.stepped, STEP | LORA, 2, 4),
    "model.lora.alpha": (see.stepped, STEP | LORA, 2, 64),
    "model.lora.dropout": (see.stepped, STEP | LORA, 0.0, 0.5),
    "model.lora.targets": (see.stepped, STEP | LORA, "q_proj", "all-linear"),
    "model.gradient_checkpointing": (
        "tests/hivemind_exp/trainer/test_grpo_step.py"
        "::test_gradient_checkpointing_saves_activations_and_changes_no_gradient"
    ),
    "model.load_in_4bit": (
        "tests/hivemind_exp/models/test_quantized.py"
        "::test_adapters_train_on_weights_in_four_bits_and_resume_with_the_same_bits"
    ),
    "tasks.*.name": (see.asked, {}, "spell_backward", "letter_counting"),
    "tasks.*.weight": (see.mixed, {}, 1.0, 3.0),
    "tasks.*.path": (see.asked, {"tasks": [{"name": "jsonl"}]}, "HALVES", "THIRDS"),
    "tasks.*.check": (see.asked, {"tasks": [{"name": "jsonl", "path": "HALVES"}]}, "exact", "math"),
    "tasks.*.params": (see.asked, {}, {"min_word_len": 3, "max_word_len": 3}, {"min_word_len": 9}),
    "tasks.*.max_turns": (
        "tests/swarmctl/packages/test_conversations.py::test_a_conversation_ends_with_the_environments_verdict"
    ),
    "prompt.style": (see.prompted, {}, "tags", "plain"),
    "prompt.examples": (see.prompted, {}, 0, 2),
    "prompt.system": (see.prompted, {}, True, False),
    "game.kind": (see.prompted, {}, "sampling", "study-group"),
    "game.role": (see.prompted, {"game": {"kind": "study-group"}}, "none", "pirate"),
    "game.rounds": (see.part("rounds"), SHORT, 1, 2),
    "game.groups": (see.part("counts"), SHORT, 1, 2),
    "game.group_size": (see.part("counts"), SHORT, 2, 4),
    "game.refill": (
        "tests/hivemind_exp/trainer/test_refill.py::test_further_questions_are_asked_counted_and_learned_from"
    ),
    "game.rest": (
        "tests/hivemind_exp/trainer/test_pacing.py::test_questions_always_or_never_solved_rest_and_wake_up_again"
    ),
    "game.curriculum": "tests/hivemind_exp/trainer/test_pacing.py::test_a_killed_node_asks_the_same_questions_again",
    "game.format_reward": (
        "tests/hivemind_exp/trainer/test_format_reward.py::test_the_node_trains_on_it_until_the_format_is_followed"
    ),
    "game.partial_credit": "tests/hivemind_exp/tasks/test_mixture.py::test_partial_credit_is_given_if_enabled",
    "generation.max_prompt_tokens": (see.part("error"), SHORT, 2, 64),
    "generation.max_completion_tokens": (see.part("tokens"), SHORT, 2, 4),
    "generation.temperature": (see.stepped, STEP, 1.0, 0.5),
    "generation.batch": (see.part("batches"), SHORT, 2, 8),
    "train.learning_rate": (see.stepped, STEP, 1e-2, 1e-3),
    "train.teacher_learning_rate": (
        "tests/hivemind_exp/trainer/test_grpo_step.py::test_a_step_of_a_teachers_rows_alone_has_its_own_learning_rate"
    ),
    "train.optimizer": (
        "tests/hivemind_exp/models/test_quantized.py"
        "::test_moments_in_eight_bits_move_weights_almost_as_exact_ones_and_are_saved"
    ),
    "train.warmup_steps": (see.stepped, STEP, 0, 4),
    "train.weight_decay": (see.stepped, STEP, 0.0, 0.5),
    "train.max_grad_norm": (see.stepped, STEP, 1.0, 1e-7),
    "train.micro_batch": (see.stepped, STEP, 1, 4),
    "train.processes": (
        "tests/hivemind_exp/runner/test_processes.py::test_two_processes_train_and_generate_as_one_does"
    ),
    "train.shard": (
        "tests/hivemind_exp/trainer/test_sharded_steps.py"
        "::test_a_divided_model_takes_the_steps_of_a_whole_one_and_they_share_checkpoints"
    ),
    "train.max_lag": (see.stepped, STEP, 4, 1),
    "train.beta": (see.stepped, STEP, 0.1, 0.5),
    "train.off_policy_weight": (see.stepped, STEP, 1.0, 0.1),
    "train.peer_loss": (see.stepped, STEP, "sapo", "f_tis"),
    "train.teacher_loss": (see.stepped, STEP, "gated", "luffy"),
    "eval.every": (see.part("evaluations"), SHORT, 0, 1),
    "eval.questions": (see.part("questions"), SHORT, 1, 2),
    "eval.canary": "tests/hivemind_exp/runner/test_canary.py::test_poison_from_an_api_is_undone_and_no_longer_learned",
    "checkpoint.every": (see.part("checkpoints"), SHORT, 1, 2),
    "checkpoint.keep": (see.part("kept"), SHORT | {"game": {"rounds": 3, "groups": 1}}, 2, 3),
    "journal.keep_rounds": (see.part("journaled"), SHORT | {"game": {"rounds": 4, "groups": 1, "group_size": 2}}, 1, 0),
    "warmup.steps": (see.warmed, {"warmup": {"steps": 1}}, 1, 2),
    "warmup.batch": (see.warmed, {"warmup": {"steps": 1}}, 1, 2),
    "warmup.learning_rate": (see.warmed, {"warmup": {"steps": 1}}, 1e-3, 1e-2),
    "warm_start.steps": (
        "tests/hivemind_exp/trainer/test_warm_start.py::test_own_correct_answers_are_learned_without_the_examples"
    ),
    "warm_start.batch": (
        "tests/hivemind_exp/trainer/test_warm_start.py::test_own_correct_answers_are_learned_without_the_examples"
    ),
    "warm_start.examples": (
        "tests/hivemind_exp/trainer/test_warm_start.py::test_own_correct_answers_are_learned_without_the_examples"
    ),
    "report.to": (see.part("files"), SHORT, [], ["tensorboard"]),
    "report.events_mb": "tests/hivemind_exp/test_events.py::test_a_run_limits_its_log",
    "report.metrics_port": "tests/hivemind_exp/runner/test_metrics.py::test_a_run_with_a_port_serves_its_metrics",
    "report.metrics_address": (
        "tests/hivemind_exp/runner/test_metrics.py::test_only_the_configured_address_is_listened_on"
    ),
    "supervision.restart": (
        "tests/swarmctl/run/test_keep_running.py::test_a_trainer_that_crashes_and_hangs_is_restarted_and_finishes"
    ),
    "supervision.max_restarts": (
        "tests/swarmctl/run/test_keep_running.py::test_nothing_is_restarted_unless_it_may_help"
    ),
    "supervision.hang_after": (
        "tests/swarmctl/run/test_keep_running.py::test_a_trainer_that_crashes_and_hangs_is_restarted_and_finishes"
    ),
    "supervision.keep_awake": (
        "tests/swarmctl/supervision/test_sleep.py::test_a_mac_is_kept_awake_as_long_as_the_node_runs"
    ),
    "offload.provider": (api.sent, OFFLOAD, "box", "openai"),
    "offload.model": (api.sent, OFFLOAD, "one", "two"),
    "offload.kind": (api.announced, OFFLOAD, "teacher", "policy_text"),
    "offload.teach": (api.announced, OFFLOAD, "answers", "distillation"),
    "offload.max_tokens": (api.sent, OFFLOAD, 100, 200),
    "offload.service_tier": (api.sent, REASONING, "default", "flex"),
    "offload.share": (see.part("requests"), SHORT | ASKED, 0.5, 0.25),
    "offload.when": (see.part("requests"), SHORT | ASKED, "always", "failed"),
    "offload.stages": (
        see.part("requests"),
        {**SHORT, **ASKED, "game": {"kind": "study-group", "rounds": 1, "groups": 1, "group_size": 4}}
        | {"generation": {"max_completion_tokens": 4, "max_prompt_tokens": 1024}},
        ["answer"],
        ["answer", "critique"],
    ),
    "offload.rounds": (see.part("requests"), SHORT | ASKED, "*", "1-"),
    "offload.fallback": (api.sent, OFFLOAD, ["other"], ["local"]),
    "offload.on_limit": (api.at_the_limit, OFFLOAD, "stop", "local"),
    "offload.ahead": (see.part("requests"), SHORT | ASKED, 0, 1),
    "offload.batch": (api.announced, {"offload": {"provider": "openai"}}, False, True),
    "offload.key": (see.keyed, {"offload": {"provider": "openai"}}, "key_file", "environment"),
    "offload.reasoning_effort": (api.sent, REASONING, "low", "high"),
    "offload.reasoning_tokens": (api.sent, REASONING, 100, 200),
    "offload.limits.usd": (api.spent, {}, 1.0, 3.0),
    "offload.limits.usd_per_day": (api.spent, {}, 1.0, 3.0),
    "offload.limits.concurrency": (api.paced, OFFLOAD, 1, 8),
    "offload.limits.requests_per_minute": (api.paced, OFFLOAD, 1, 2),
    "offload.limits.tokens_per_minute": (api.paced, OFFLOAD, 1000, 2000),
    "offload.limits.timeout": (api.sent, OFFLOAD, 10.0, 20.0),
    "offload.serving.engine": (
        api.refused,
        {"model": {"lora": True}, "offload": {"provider": "litellm:own", "kind": "policy"}},
        "auto",
        "vllm",
    ),
    "offload.serving.urls": (
        "tests/hivemind_exp/sources/test_policy_server.py::test_replicas_share_the_prompts_and_each_prompt_stays_with_one"
    ),
    "offload.serving.folder": (
        "tests/hivemind_exp/sources/test_policy_server.py::test_adapters_go_where_the_server_sees_them_under_another_path"
    ),
    "offload.serving.server_folder": (
        "tests/hivemind_exp/sources/test_policy_server.py::test_adapters_go_where_the_server_sees_them_under_another_path"
    ),
    "offload.serving.command": ("tests/swarmctl/run/test_serve.py::test_a_dry_run_and_doctor_start_nothing"),
    "offload.serving.arguments": (
        "tests/swarmctl/run/test_serve.py::test_the_trainer_is_told_where_the_nodes_own_server_is"
    ),
    "offload.serving.gpu": (
        "tests/swarmctl/serving/test_gpus.py::test_the_server_gets_the_last_gpu_that_the_node_does_not_use"
    ),
    "offload.serving.turns": (
        "tests/hivemind_exp/sources/test_turns.py::test_a_server_is_awake_only_to_load_and_to_generate"
    ),
    "offload.prices.*.input": (api.announced, PRICED, 1.0, 3.0),
    "offload.prices.*.output": (api.announced, PRICED, 2.0, 3.0),
    "judge.provider": (api.judged, JUDGE, "box", "other"),
    "judge.model": (api.judged, JUDGE, "m", "n"),
    "judge.weight": "tests/hivemind_exp/trainer/test_judge.py::test_a_grade_is_one_term_beside_the_verifiers",
    "judge.instructions": (api.judged, JUDGE, "Is it brief?", "Is it kind?"),
    "judge.max_tokens": (api.judged, JUDGE, 8, 16),
    "providers.*.base_url": (api.sent, OFFLOAD, "http://127.0.0.1:9/v1", "http://127.0.0.1:8/v1"),
    "providers.*.model": (api.sent, OFFLOAD, "m", "n"),
    "providers.*.needs_key": (api.announced, OFFLOAD, False, True),
    "providers.*.group": (api.sent, OFFLOAD, "fan_out", "n"),
    "providers.*.max_tokens_name": (api.sent, OFFLOAD, "max_tokens", "max_completion_tokens"),
    "providers.*.free": (api.announced, OFFLOAD, True, False),
    "providers.*.batch": (api.refused, {**OFFLOAD, "offload": {"provider": "box", "batch": True}}, True, False),
    "providers.*.reasons": (api.sent, OFFLOAD, False, True),
    "providers.*.training": (api.announced, OFFLOAD, "unknown", "allowed"),
    "hub.repo": (see.pushed, {"hub": {"repo": "me/mine", "every": 2}}, "me/mine", "me/other"),
    "hub.every": (see.pushed, {"hub": {"repo": "me/mine", "every": 2}}, 2, 3),
    "hub.private": (see.pushed, {"hub": {"repo": "me/mine", "every": 2}}, True, False),
    "swarm.join": (see.first_seed, {}, "", SWARM),
    "swarm.external": (see.swarm_rules, {}, 1, 2),
    "swarm.port": (see.listens, {}, 0, 4002),
    "swarm.announce": (see.listens, {}, [], ["/ip4/203.0.113.7/tcp/4001"]),
    "swarm.loopback": (see.listens, {}, False, True),
    "swarm.relay": (see.daemon, {}, True, False),
}
"""Observer, settings to start from and two values; or the test of a field that needs real processes."""


def fields(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Yield every field that is not a table, by dotted path; ``*`` stands for an index or a name."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        inside = [kind for kind in kinds for kind in (kind, *get_args(kind)) if _is_table(kind)]
        if inside:
            is_table = any(map(_is_table, kinds)) and not str(field.annotation).startswith(("list", "dict"))
            yield from fields(inside[0], f"{prefix}{name}." + ("" if is_table else "*."))
        else:
            yield prefix + name


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def test_every_field_is_in_the_table() -> None:
    assert sorted(fields()) == sorted(TABLE)


def with_value(base: dict[str, Any], path: str, value: Any, files: dict[str, Path]) -> Config:
    """Return the configuration with a setting changed. Names of ``files`` stand for their paths."""
    settings = json.loads(json.dumps({"tasks": ["spell_backward"], **make_config().model_dump(mode="json"), **base}))
    table: Any = settings
    *parents, last = path.split(".")
    for name in parents:
        key: Any = name if name != "*" else 0 if isinstance(table, list) else "box"
        table = table[key] if isinstance(table, list) else table.setdefault(key, {})
    table[last] = value
    text = json.dumps(settings)
    for name, file in files.items():
        text = text.replace(f'"{name}"', json.dumps(str(file)))
    return Config.model_validate_json(text)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, because more threads slow tiny models down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a model and two files of questions, by the names that stand for them in the table."""
    root = tmp_path_factory.mktemp("settings")
    for name, answer in (("HALVES", "1/2"), ("THIRDS", "1/3")):
        lines = [json.dumps({"question": f"{name} {number}", "answer": answer}) for number in range(12)]
        (root / f"{name}.jsonl").write_text("\n".join(lines))
    models = {"LLAMA": save_llama(root / "llama"), "SWITCH": save_llama(root / "switch", SWITCH)}
    return models | {name: root / f"{name}.jsonl" for name in ("HALVES", "THIRDS")}


OBSERVED = {path: row for path, row in TABLE.items() if not isinstance(row, str)}
REFERRED = {path: row for path, row in TABLE.items() if isinstance(row, str)}


@pytest.mark.parametrize("path", OBSERVED)
def test_changing_a_setting_changes_something(path: str, tmp_path: Path, files: dict[str, Path]) -> None:
    observe, base, *values = OBSERVED[path]
    seen = [
        observe(with_value(base, path, value, files), tmp_path / str(number))
        for number, value in enumerate([*values, values[0]])
    ]
    assert seen[0] == seen[2], "the observer is not deterministic, so a difference would prove nothing"
    assert seen[0] != seen[1]


@pytest.mark.parametrize("path", REFERRED)
def test_the_test_of_a_setting_that_needs_processes_exists_and_uses_it(path: str) -> None:
    file, _, name = REFERRED[path].partition("::")
    tree = ast.parse((ROOT / file).read_text())
    [test] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    # The test, or a fixture of its module that it takes.
    fixtures = {argument.arg for argument in test.args.args}
    used = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in {name, *fixtures}]
    assert any(path.rpartition(".")[2] in ast.unparse(each) for each in used)
