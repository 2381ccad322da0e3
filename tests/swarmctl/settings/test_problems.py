"""Messages about invalid values: the setting, the value and what is allowed, without internals or secrets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, get_args

import pytest

from hivemind_exp.config import OffloadConfig
from hivemind_exp.game_settings import STAGE_NAMES
from hivemind_exp.serving_settings import InferenceEngineName
from hivemind_exp.train_settings import TrainConfig
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.allowed import allowed, known_part, shown
from swarmctl.settings.resolve import problems_of
from swarmctl.settings.schema import dotted, settings
from swarmctl.settings.sources import Override
from tests.support.command_line import write_profile
from tests.support.setting_problems import assigned, messages

INTERNALS = (
    "constrained",
    "literal[",
    "Input should",
    "pydantic",
    "int range",
    "type=",
    "unable to parse",
    "function-",
    "nullable",
    "[key]",
)
WRONG = "no such value!"
KEY = "sk-proj-Abcdefghijklmnop0123456789"


def either(names: Iterable[str]) -> str:
    """Return ``a, b or c``."""
    *others, last = names
    return f"{', '.join(others)} or {last}"


def choices(name: str) -> tuple[str, ...]:
    """Return the values that a loss's setting allows."""
    return get_args(TrainConfig.model_fields[name].annotation)


WHOLE, AMOUNT, TEXT = "a whole number", "an amount in USD", "a string in quotes"
ALLOWED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "node.name": ("1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit", ("-a", "x" * 65)),
    "node.seed": (f"{WHOLE} of at least 0", (-1,)),
    "node.fresh": ("true or false", (2,)),
    "model.name": ("a non-empty string in quotes", (5, "")),
    "model.revision": (TEXT, (5,)),
    "model.device": ("auto, cpu, mps, xpu, cuda or cuda:N", ("gpu", "cuda:x")),
    "model.dtype": ("auto, float32, bfloat16 or float16", ("int8",)),
    "model.threads": (f"{WHOLE} of at least 0", (-1,)),
    "model.lora.rank": (f"{WHOLE} of at least 1", (0,)),
    "model.lora.alpha": (f"{WHOLE} of at least 1", (0,)),
    "model.lora.dropout": ("a number of at least 0 and below 1", (-0.1, 1)),
    "model.lora.targets": (TEXT, (5,)),
    "model.load_in_4bit": ("true or false", (2,)),
    "model.fused_kernels": ("auto, true or false", (2, "some")),
    "model.thinking": ("true or false", (2,)),
    "model.gradient_checkpointing": ("true or false", (2,)),
    "tasks": ("at least one task name, or a list of tables with a name each", (5, [])),
    "prompt.style": ("auto, tags, answer-tag, boxed or plain", ("xml",)),
    "prompt.examples": ("auto or a whole number from 0 to 8", (9, -1, "some")),
    "prompt.system": ("true or false", (2,)),
    "game.kind": ("sampling or study-group", ("chess",)),
    "game.role": ("none, pirate, knight, mobster, announcer, founder or random", ("king",)),
    "game.rounds": (f"{WHOLE} of at least 0", (-1, 1.5)),
    "game.groups": (f"{WHOLE} of at least 1", (0,)),
    "game.group_size": (f"{WHOLE} of at least 2", (1,)),
    "game.refill": (f"{WHOLE} of at least 0", (-1,)),
    "game.rest": (f"{WHOLE} of at least 0", (-1,)),
    "game.curriculum": ("true or false", (2,)),
    "game.format_reward": ("a number from 0 to 1", (-0.1, 1.1)),
    "game.partial_credit": ("true or false", (2,)),
    "generation.max_prompt_tokens": (f"{WHOLE} of at least 1", (0,)),
    "generation.max_completion_tokens": (f"{WHOLE} of at least 1", (0,)),
    "generation.temperature": ("a number above 0 and at most 2", (0, 2.1)),
    "generation.batch": (f"auto or {WHOLE} of at least 1", (0, "many")),
    "train.learning_rate": ("a number above 0", (0, -1e-6)),
    "train.teacher_learning_rate": ("a number above 0", (0, -1e-6)),
    "train.optimizer": ("adamw or adamw-8bit", ("sgd",)),
    "train.warmup_steps": (f"{WHOLE} of at least 0", (-1,)),
    "train.weight_decay": ("a number of at least 0", (-1,)),
    "train.max_grad_norm": ("a number above 0", (0,)),
    "train.micro_batch": (f"auto or {WHOLE} of at least 1", (0, "many")),
    "train.processes": (f"{WHOLE} of at least 1", (0, -1, "two")),
    "train.shard": ("true or false", (2,)),
    "train.max_lag": (f"{WHOLE} of at least 0", (-1,)),
    "train.beta": ("a number of at least 0", (-1,)),
    "train.off_policy_weight": ("a number of at least 0", (-1,)),
    "train.peer_loss": (either(choices("peer_loss")), ("both",)),
    "train.teacher_loss": (either(choices("teacher_loss")), ("both",)),
    "eval.every": (f"{WHOLE} of at least 0", (-1,)),
    "eval.questions": (f"{WHOLE} of at least 1", (0,)),
    "eval.canary": ("true or false", (2,)),
    "checkpoint.every": (f"{WHOLE} of at least 1", (0,)),
    "checkpoint.keep": (f"{WHOLE} of at least 2", (1,)),
    "journal.keep_rounds": (f"{WHOLE} of at least 0", (-1,)),
    "warmup.steps": (f"{WHOLE} of at least 0", (-1,)),
    "warmup.batch": (f"{WHOLE} of at least 1", (0,)),
    "warmup.learning_rate": ("a number above 0", (0,)),
    "warm_start.steps": (f"{WHOLE} of at least 0", (-1,)),
    "warm_start.batch": (f"{WHOLE} of at least 1", (0,)),
    "warm_start.examples": (f"{WHOLE} from 1 to 8", (0, 9)),
    "report.to": ('a list with any of tensorboard, trackio and wandb, such as ["tensorboard"]', (5,)),
    "report.events_mb": (f"{WHOLE} of at least 0", (-1,)),
    "report.metrics_port": (f"{WHOLE} from 0 to 65535", (-1, 65536, "x")),
    "report.metrics_address": ("an address of this machine, such as 127.0.0.1 or 0.0.0.0", ("a b", 5)),
    "supervision.restart": ("auto, on-failure or never", ("always",)),
    "supervision.max_restarts": (f"{WHOLE} of at least 0", (-1,)),
    "supervision.hang_after": (f"{WHOLE} of at least 0", (-1,)),
    "supervision.keep_awake": ("true or false", (2,)),
    "offload.provider": ("a provider's name, or off", ("", 5)),
    "offload.model": (TEXT, (5,)),
    "offload.kind": (either(get_args(OffloadConfig.model_fields["kind"].annotation)), ("peer",)),
    "offload.teach": ("answers, hints or distillation", ("scores",)),
    "offload.share": ("a number above 0 and at most 1", (0, 1.1)),
    "offload.when": ("always or failed", ("never",)),
    "offload.stages": (
        f'a non-empty list with any of {" and ".join(either(STAGE_NAMES).rsplit(" or ", 1))}, such as ["answer"]',
        ([],),
    ),
    "offload.rounds": ('"*", ranges such as "0-9,20-29" or "100-", or "every N"', ("every 0",)),
    "offload.fallback": ('a list of provider names or "local", such as ["local"]', (5,)),
    "offload.on_limit": ("stop or local", ("pay",)),
    "offload.ahead": (f"{WHOLE} from 0 to 64", (-1, 65)),
    "offload.batch": ("true or false", (2,)),
    "offload.service_tier": ("default or flex", ("fast",)),
    "offload.key": ("auto, key_file, environment, credentials, keyring or file", ("vault",)),
    "offload.max_tokens": (f"{WHOLE} of at least 1", (0,)),
    "offload.reasoning_effort": ("none, minimal, low, medium, high, xhigh or max", ("most",)),
    "offload.reasoning_tokens": (f"{WHOLE} of at least 0", (-1,)),
    "offload.limits.usd": (f"{AMOUNT} above 0, or unlimited", (0, -1.5)),
    "offload.limits.usd_per_day": (f"{AMOUNT} above 0", (0,)),
    "offload.limits.concurrency": (f"{WHOLE} from 1 to 1000", (0, 1001)),
    "offload.limits.requests_per_minute": (f"{WHOLE} of at least 1", (0,)),
    "offload.limits.tokens_per_minute": (f"{WHOLE} of at least 1", (0,)),
    "offload.limits.timeout": ("a number above 0 and at most 3600", (0, 3601)),
    "offload.serving.engine": (either([*get_args(InferenceEngineName), "auto"]), ("none", 5)),
    "offload.serving.urls": ('a list of URLs, such as ["http://192.168.1.20:8000/v1"]', (5,)),
    "offload.serving.folder": (TEXT, (5,)),
    "offload.serving.server_folder": (TEXT, (5,)),
    "offload.serving.command": (TEXT, (5,)),
    "offload.serving.arguments": ('a list of arguments, such as ["--gpu-memory-utilization=0.3"]', (5,)),
    "offload.serving.gpu": (f"{WHOLE} of at least 0", (-1,)),
    "offload.serving.turns": ("auto, on or off", ("sleep",)),
    "offload.prices": ("a table", (5,)),
    "judge.provider": ("a provider's name, or off", ("", 5)),
    "judge.model": (TEXT, (5,)),
    "judge.weight": ("a number above 0 and below 1", (0, 1)),
    "judge.instructions": ("a non-empty string in quotes", ("", 5)),
    "judge.max_tokens": (f"{WHOLE} of at least 1", (0,)),
    "providers": ("a table with one table per provider", (5,)),
    "hub.repo": ("OWNER/NAME with at most 96 characters", ("mine", "a/" + "b" * 20 + "-" + "c" * 80)),
    "hub.every": (f"{WHOLE} of at least 0", (-1,)),
    "hub.private": ("true or false", (2,)),
    "swarm.join": ("the line that `swarmctl swarm invite` prints", ("swarm1:0f",)),
    "swarm.external": (f"{WHOLE} of at least 0", (-1,)),
    "swarm.port": (f"{WHOLE} from 0 to 65535", (-1, 65536)),
    "swarm.announce": ('a list of addresses, such as ["/ip4/203.0.113.7/tcp/4001"]', (5,)),
    "swarm.loopback": ("true or false", (2,)),
    "swarm.relay": ("true or false", (2,)),
}
"""For each setting: what the message says is allowed, and invalid values."""
ANY_TEXT = {"model.name", "model.revision", "model.lora.targets", "tasks", "offload.provider", "offload.model"}
ANY_TEXT |= {
    "offload.serving.folder",
    "offload.serving.server_folder",
    "offload.serving.command",
    "judge.provider",
    "judge.model",
    "judge.instructions",
}
"""Settings for which every non-empty string is valid."""


def test_the_table_covers_every_setting() -> None:
    assert list(ALLOWED) == [dotted(path) for path in settings()]


@pytest.mark.parametrize("path", list(settings()), ids=dotted)
def test_an_invalid_value_is_shown_with_what_is_allowed(path: tuple[str, ...]) -> None:
    key = dotted(path)
    phrase, values = ALLOWED[key]
    for value in (*values, *(() if key in ANY_TEXT else (WRONG,))):
        (message,) = messages(Override(path, value, "--set"))
        said = "(hidden)" if key == "offload.key" else shown(value)
        assert message == f"invalid {key}: {said}. Use {phrase}"
        assert not any(word in message for word in INTERNALS)
        (message,) = messages(Override(path, value, f"$SWARMCTL_{key}"))
        assert message.startswith(f"invalid $SWARMCTL_{key}: {said}. Use ")


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("tasks=[5]", ["invalid tasks[0]: 5. Use a task name, or a table with a name"]),
        ("tasks=[{weight=1}]", ["missing tasks[0].name"]),
        ("tasks=[{name='x', weight=0}]", ["invalid tasks[0].weight: 0. Use a number above 0"]),
        ("tasks=[{name=''}]", ["invalid tasks[0].name: ''. Use a non-empty string in quotes"]),
        ("tasks=[{name='x', check='y'}]", ["invalid tasks[0].check: 'y'. Use exact or math"]),
        ("tasks=[{name='x', params=1}]", ["invalid tasks[0].params: 1. Use a table"]),
        (
            "tasks=[{name='x', params={a=2024-01-01}}]",
            ["invalid tasks[0].params.a: 2024-01-01. Use a string, a number, true, false, a list or a table"],
        ),
        ("report.to=['x']", ["invalid report.to[0]: 'x'. Use tensorboard, trackio or wandb"]),
        ("offload.stages=['x']", [f"invalid offload.stages[0]: 'x'. Use {either(STAGE_NAMES)}"]),
        (
            "offload.serving.urls=['ftp://x']",
            [
                "invalid offload.serving.urls[0]: 'ftp://x'. "
                "Use an http:// or https:// URL without user name, query and fragment"
            ],
        ),
        ("model=tiny", ["invalid model: 'tiny'. Use a table"]),
        (
            "model.lora=5",
            ["invalid model.lora: 5. Use true, false, or a table with any of rank, alpha, dropout and targets"],
        ),
        ("game.groups=[1]", ["invalid game.groups: a list. Use a whole number of at least 1"]),
        ("game.groups={a=1}", ["invalid game.groups: a table. Use a whole number of at least 1"]),
        ("train.learning_rate=inf", ["invalid train.learning_rate: inf. Use a number above 0"]),
        ("node.fresh=2024-01-01", ["invalid node.fresh: 2024-01-01. Use true or false"]),
        (
            "providers={Box={base_url='http://x'}}",
            [
                "invalid provider name: 'Box'. Use 1 to 32 lowercase letters, digits or '-', starting with a letter",
            ],
        ),
        ("providers={box={base_url='http://x', group='y'}}", ["invalid providers.box.group: 'y'. Use n or fan_out"]),
        (
            "providers={box={base_url='http://[bad'}}",
            ['the base_url of a provider needs a valid host and port: "http://[bad"'],
        ),
        (  # what the HTTP libraries of a run and of doctor disagree on
            "providers={box={base_url='http://127.1:8000'}}",
            ["the base_url of a provider needs a valid host and port: http://127.1:8000"],
        ),
        (
            "providers={box={base_url='http://0177.0.0.1'}}",
            ["the base_url of a provider needs a valid host and port: http://0177.0.0.1"],
        ),
        (
            "providers={box={base_url='http://x:99999'}}",
            ["the base_url of a provider needs a valid host and port: http://x:99999"],
        ),
        (
            "providers={box={base_url='ftp://x'}}",
            [
                "invalid providers.box.base_url: 'ftp://x'. "
                "Use an http:// or https:// URL without user name, query and fragment"
            ],
        ),
        (
            "offload.prices={openai={input=-1, output='x'}}",
            [
                "invalid offload.prices.openai.input: -1. Use an amount in USD of at least 0",
                "invalid offload.prices.openai.output: 'x'. Use an amount in USD of at least 0",
            ],
        ),
    ],
)
def test_invalid_values_inside_tables_and_lists(assignment: str, expected: list[str]) -> None:
    found = assigned(assignment)
    assert found == expected
    assert not any(word in message for message in found for word in INTERNALS)


def test_a_problem_names_the_profile_it_is_in(home: Any) -> None:
    path = write_profile(home, "mine", "[train]\nbeta = 'x'\n")
    _, problems = problems_of(profiles.read(path))
    assert [str(problem) for problem in problems] == [
        f"profile {path}: invalid train.beta: 'x'. Use a number of at least 0"
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (KEY, "(hidden: looks like a key)"),
        (f"Bearer {KEY}.rest", "(hidden: looks like a key)"),
        ("sk-proj-\x1b[31mAbcdefgh\u200bijklmnop0123456789", "(hidden: looks like a key)"),
        ("sk-proj-Abcd\nefghijklmnop0123456789", "(hidden: looks like a key)"),
        ("x" * 25 + f" {KEY}", "(hidden: looks like a key)"),
        ("https://me:hunter2@host/v1", "(hidden: looks like a key)"),
        ("https://hunter2@host/v1", "(hidden: may hold a password)"),
        ("https://host/v1?token=hunter2", "(hidden: may hold a password)"),
        (f"swarm1:{'0f' * 32}@x y", "'(hidden: an invitation) y'"),
        ({"api_key": "hunter2"}, "a table"),
        (" {api_key = 'hunter2'}", "a table"),
        ([KEY], "a list"),
        ([], "[]"),
        (int("7" * 50), "(hidden: looks like a key)"),
        ("a\x1b[2J\u202e\tb\nc", "'a b c'"),
        ("(odd)", "'(odd)'"),
        ("it's " * 30, f"'{('it' + chr(39) + 's ') * 11}it's…'"),
        ("ab " * 20, f"'{('ab ' * 20).strip()}'"),
        (True, "true"),
        (1e-7, "1e-07"),
        ("0f" * 20, "(hidden: looks like a key)"),
    ],
)
def test_a_value_is_shown_without_secrets_and_control_characters(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_number_that_python_does_not_print_is_described() -> None:
    assert shown(16**5000) == "a very large number"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--rounds", "abc"], "invalid --rounds: 'abc'. Use a whole number of at least 0"),
        (["run", "--rounds", "1.5"], "invalid --rounds: '1.5'. Use a whole number of at least 0"),
        (
            ["run", "--rounds", "is not a valid x"],
            "invalid --rounds: 'is not a valid x'. Use a whole number of at least 0",
        ),
        (["run", "--seed", "-1"], "invalid --seed: -1. Use a whole number of at least 0"),
        (["run", "--seed", "\x1b[2Jx"], "invalid --seed: 'x'. Use a whole number of at least 0"),
        (["logs", "-n", "x"], "invalid -n/--lines/--tail: 'x'. Use a whole number of at least 0"),
        (["rollouts", "show", "--last", "0"], "invalid --last: 0. Use a whole number of at least 1"),
        (["rollouts", "export", "--format", "xls"], "invalid --format: 'xls'. Use jsonl, csv or parquet"),
        (
            ["swarm", "new", "x", "--stage-time", "1"],
            "invalid --stage-time: 1. Use a whole number from 5 to 86400",
        ),
    ],
)
def test_an_options_invalid_value_is_shown_with_what_is_allowed(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == Exit.USAGE
    err = capsys.readouterr().err
    assert err.splitlines()[0] == f"error: {message}"
    assert err.rstrip().endswith("--help")


def test_a_location_is_cut_after_its_last_known_part() -> None:
    assert known_part(("offload", "limits", "usd", "constrained-float")) == ("offload", "limits", "usd")
    assert known_part(("tasks", "0", "params", "a", "b")) == ("tasks", "0", "params", "a")
    assert allowed(("no", "such")) is None
