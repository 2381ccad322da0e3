"""Layers of a configuration: precedence, origins and problems."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config, LoraConfig
from hivemind_exp.errors import ConfigurationError
from swarmctl import cli
from swarmctl.errors import Exit, UsageError
from swarmctl.nodes.lookup import files_of
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.command_line import changes, rerun, resolved_options, settings_arguments
from swarmctl.settings.options import RunOptions
from swarmctl.settings.resolve import Resolved, override, problems_of, resolve
from swarmctl.settings.sources import REMEMBERED, Override
from tests.support.command_line import write_profile


def resolved(name: str, *assignments: str, **environment: str) -> Resolved:
    profile = profiles.read(profiles.find(name))
    return resolve(profile, [override(text) for text in assignments], environment)


def test_precedence_of_flags_environment_profile_base_and_defaults(home: Path) -> None:
    write_profile(home, "base", "[train]\nlearning_rate = 1e-5\nbeta = 0.1\nwarmup_steps = 1\nweight_decay = 0.5\n")
    write_profile(home, "mine", 'extends = "base"\n[train]\nbeta = 0.2\nwarmup_steps = 2\nweight_decay = 0.6\n')
    variables = {"SWARMCTL_TRAIN__WARMUP_STEPS": "3", "SWARMCTL_TRAIN__WEIGHT_DECAY": "0.7"}
    result = resolved("mine", "train.weight_decay=0.8", **variables)
    train = result.config.train
    assert (train.learning_rate, train.beta, train.warmup_steps, train.weight_decay) == (1e-5, 0.2, 3, 0.8)
    assert train.max_grad_norm == 1.0
    assert result.origins["train.learning_rate"].endswith("base.toml")
    assert result.origins["train.beta"].endswith("mine.toml")
    assert result.origins["train.warmup_steps"] == "$SWARMCTL_TRAIN__WARMUP_STEPS"
    assert result.origins["train.weight_decay"] == "--set"
    assert "train.max_grad_norm" not in result.origins


def test_arguments_for_doctor_unset_a_model_only_where_a_profile_may_set_one(home: Path) -> None:
    write_profile(home, "mine", '[offload]\nprovider = "ollama"\nmodel = "m"\n')
    for name, kept in (("demo", False), ("mine", True)):
        arguments = settings_arguments(resolved(name, "offload.provider=openai", "offload.model="))
        assert "offload.provider=openai" in arguments
        assert ("offload.model=" in arguments) is kept


NO_CLIP = "is no longer a setting: each rollout is used for one optimizer step"


def test_a_retired_setting_is_refused(home: Path) -> None:
    write_profile(home, "old", "[train]\nepsilon = 0.1\n")
    with pytest.raises(ConfigurationError, match=f"old.toml: train.epsilon {NO_CLIP}"):
        resolved("old")
    with pytest.raises(ConfigurationError, match=f"^train.delta {NO_CLIP}"):
        resolved("demo", "train.delta=2.0")
    with pytest.raises(ConfigurationError, match=rf"^\$SWARMCTL_TRAIN__EPSILON_HIGH {NO_CLIP}") as caught:
        resolved("demo", SWARMCTL_TRAIN__EPSILON_HIGH="0.3")
    assert caught.value.next == "unset SWARMCTL_TRAIN__EPSILON_HIGH"


def test_the_former_default_of_a_retired_setting_is_ignored(home: Path) -> None:
    write_profile(home, "old", "[train]\nepsilon = 0.2\nepsilon_high = 0.28\ndelta = 4.0\nbeta = 0.5\n")
    assert resolved("old", "train.delta=4").config.train.beta == 0.5


@pytest.mark.parametrize("overrides", [{"train.epsilon": 0.1}, {"train": {"epsilon": 0.1, "beta": 0.5}}])
def test_a_node_whose_last_run_set_a_retired_setting_resumes(home: Path, overrides: dict[str, Any]) -> None:
    files = files_of("old")
    files.root.mkdir(parents=True)
    before = {"train": {"epsilon": 0.1, "delta": 4.0}}
    record = {"schema": 1, "profile": "demo", "overrides": overrides, "config": before}
    files.config.write_text(json.dumps(record))
    last = resolved_options(RunOptions(node="old"))
    assert last.config.train.beta == (0.5 if "train" in overrides else 0.0)
    assert "epsilon" not in rerun(last)
    [told] = [line for line in changes(before, last.config.model_dump(mode="json")) if "no longer" in line]
    assert told.startswith("train.epsilon 0.1 → no longer a setting: each rollout")


def test_environment_overrides_the_flags_of_the_last_run() -> None:
    path = ("offload", "limits", "usd")
    remembered, profile = Override(path, 9.0, REMEMBERED), profiles.read(profiles.find("demo"))
    variables = {"SWARMCTL_OFFLOAD__LIMITS__USD": "1.5"}
    assert resolve(profile, [remembered], {}).config.offload.limits.usd == 9.0
    assert resolve(profile, [remembered], variables).config.offload.limits.usd == 1.5
    assert resolve(profile, [remembered, Override(path, 2.0, "--max-usd")], variables).config.offload.limits.usd == 2.0


@pytest.mark.parametrize("name", sorted(profiles.builtin_names()))
def test_built_in_profiles_are_valid_and_described(name: str) -> None:
    result = resolved(name)
    assert result.config.node.name == name
    assert result.profile.description


def test_the_demo_has_its_measured_settings() -> None:
    config = resolved("demo").config
    assert config.model.name == "tiny"
    assert not config.node.fresh
    assert config.tasks[0].params == {"min_word_len": 3, "max_word_len": 5}
    assert config.game.rounds == 80


def test_values_are_read_as_toml_or_as_text() -> None:
    config = resolved("default", "tasks=sapo, gsm8k", "model.lora.rank=4", "report.to=['wandb']").config
    assert [task.name for task in config.tasks] == ["sapo", "gsm8k"]
    assert config.model.lora is not None
    assert config.model.lora.rank == 4
    assert config.report.to == ["wandb"]


@pytest.mark.parametrize("text", ["12e4", "2024-01-01", "123", "true", "main"])
def test_strings_that_look_like_other_types_stay_strings(text: str) -> None:
    assert resolved("default", f"model.revision={text}").config.model.revision == text


def test_lora_can_be_switched_on_and_off(home: Path) -> None:
    write_profile(home, "mine", "[model.lora]\nrank = 8\n")
    assert resolved("mac", "model.lora=false").config.model.lora is None
    on = resolved("default", "model.lora=true").config.model.lora
    assert on is not None
    assert on.rank == 16
    kept = resolved("mine", "model.lora=true").config.model.lora
    assert kept is not None
    assert kept.rank == 8


def test_a_replaced_value_stays_replaced(home: Path) -> None:
    write_profile(home, "mine", "[model.lora]\nrank = 8\n")
    result = resolved("mine", "model.lora=false", "model.lora.alpha=3")
    assert result.config.model.lora == LoraConfig(alpha=3)
    assert result.origins["model.lora.alpha"] == "--set"
    assert "model.lora.rank" not in result.origins
    whole = resolved("mine", "providers={one={base_url='http://one'}}", "providers={two={base_url='http://two'}}")
    assert list(whole.config.providers) == ["two"]


def test_a_switched_adapter_keeps_its_origin(home: Path) -> None:
    write_profile(home, "mine", "[model.lora]\nrank = 8\n")
    assert resolved("mine", "model.lora=true").origin("model.lora.rank").endswith("mine.toml")
    assert resolved("default", "model.lora=true").origin("model.lora.rank") == "--set"


def test_paths_are_relative_to_profile_or_directory(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = '[model]\nname = "./model"\n[[tasks]]\nname = "jsonl"\npath = "questions.jsonl"\n'
    path = write_profile(home, "mine", text)
    config = resolved(str(path)).config
    assert config.model.name == str(path.parent / "model")
    assert config.tasks[0].path == str(path.parent / "questions.jsonl")
    assert resolved("default", "model.name=./here").config.model.name == str(tmp_path / "here")


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("train.learnin_rate=1", "did you mean train.learning_rate?"),
        ("rounds=5", "did you mean game.rounds or offload.rounds?"),
        ("model.lora.rnk=5", "did you mean model.lora.rank?"),
        ("tasks=[{name='gsm8k', wieght=2}]", "did you mean weight?"),
        ("train.learning_rate=0", "invalid train.learning_rate: 0. Use a number above 0"),
        ("train.learning_rate=nan", "invalid train.learning_rate: nan. Use a number above 0"),
        ("train.micro_batch=many", "invalid train.micro_batch: 'many'. Use auto or a whole number of at least 1"),
        ("model.device=gpu", "invalid model.device: 'gpu'. Use auto, cpu, mps, xpu, cuda or cuda:N"),
        ("model.dtype=int8", "invalid model.dtype: 'int8'. Use auto, float32, bfloat16 or float16"),
        ("model=tiny", "invalid model: 'tiny'. Use a table"),
        ("tasks=[]", "invalid tasks: []. Use at least one task name"),
    ],
)
def test_wrong_keys_and_values_are_explained(assignment: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolved("default", assignment)
    assert told in caught.value.message
    assert caught.value.next == "swarmctl profiles show default --origin"


def test_a_node_always_has_a_name(home: Path) -> None:
    assert resolved("default", "node.name=").config.node.name == "default"
    assert resolved("default", SWARMCTL_NODE__NAME="").config.node.name == "default"
    write_profile(home, "my profile", "")
    with pytest.raises(ConfigurationError, match=r"invalid node\.name: 'my profile'\. Use 1 to 64 letters") as caught:
        resolved("my profile")
    assert caught.value.next == "swarmctl run --profile 'my profile' --node my-node"


@pytest.mark.parametrize(
    ("file", "node"),
    [
        ("maths/profile.toml", "maths"),
        ("my sums!/profile.toml", "my-sums"),
        ("…/profile.toml", "profile"),
        ("maths/algebra.toml", "algebra"),
    ],
)
def test_a_file_called_profile_names_its_node_after_its_directory(tmp_path: Path, file: str, node: str) -> None:
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text('extends = "demo"\n', encoding="utf-8")
    assert resolved(str(path)).config.node.name == node


def test_a_profile_that_the_user_calls_profile_names_its_node(home: Path) -> None:
    write_profile(home, "profile", 'extends = "demo"\n')
    assert resolved("profile").config.node.name == "profile"


@pytest.mark.parametrize(
    ("variable", "right"),
    [
        ("SWARMCTL_TRIAN__LEARNING_RATE", "SWARMCTL_TRAIN__LEARNING_RATE"),
        ("SWARMCTL_GAME__ROUND", "SWARMCTL_GAME__ROUNDS"),
        ("SWARMCTL_PROFIL", "SWARMCTL_PROFILE"),
        ("SWARMCTL_TRAIN__LR", "SWARMCTL_TRAIN__LEARNING_RATE"),
        ("SWARMCTL_LR", "SWARMCTL_TRAIN__LEARNING_RATE"),
    ],
)
def test_an_unknown_variable_is_an_error(variable: str, right: str) -> None:
    with pytest.raises(ConfigurationError, match=f"did you mean {right}") as caught:
        resolved("default", **{variable: "1"})
    assert caught.value.next == f"unset {variable}"


def test_the_prefix_of_variables_does_not_count_as_similarity() -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolved("default", SWARMCTL_MAX_USD="5")
    assert caught.value.message == "unknown setting $SWARMCTL_MAX_USD"


def test_other_variables_are_ignored() -> None:
    resolved("default", SWARMCTL_HOME="/x", SWARMCTL_PROFILE="y", SWARMCTL_OPENAI_API_KEY_FILE="/z", PATH="/bin")


def test_every_problem_of_a_profile_is_named_but_no_key_shown(home: Path) -> None:
    secret = "sk-proj-abcdefghijklmnop"
    path = write_profile(home, "bad", f'[train]\nlearnrate = "{secret}"\nbeta = "{secret}"\n[modle]\nname = "x"\n')
    _, problems = problems_of(profiles.read(path))
    assert {problem.key for problem in problems} == {"train.learnrate", "train.beta", "modle.name"}
    assert secret not in " ".join(map(str, problems))
    with pytest.raises(ConfigurationError) as caught:
        resolved("bad")
    assert caught.value.next == "swarmctl profiles edit bad"
    write_profile(home, "child", 'extends = "bad"\n')
    with pytest.raises(ConfigurationError) as caught:
        resolved("child")
    assert caught.value.next == "swarmctl profiles edit bad", "the file that is wrong"


def test_a_profile_extends_at_most_one_level(home: Path) -> None:
    write_profile(home, "one", 'extends = "gpu"\n')
    assert resolved("one").config.game.groups == 16
    write_profile(home, "two", 'extends = "one"\n')
    with pytest.raises(ConfigurationError, match="only one level"):
        resolved("two")
    write_profile(home, "loop", 'extends = "loop"\n')
    with pytest.raises(ConfigurationError, match="extends itself"):
        resolved("loop")
    write_profile(home, "lost", 'extends = "defualt"\n')
    with pytest.raises(ConfigurationError, match="did you mean default"):
        resolved("lost")


@pytest.mark.parametrize("name", sorted(profiles.builtin_names()))
def test_a_profile_may_hide_a_built_in_one_and_extend_it(home: Path, name: str) -> None:
    before = resolved(name).config
    write_profile(home, name, f'extends = "{name}"\n[game]\ngroups = 3\n')
    config = resolved(name).config
    assert config.game.groups == 3
    assert config.tasks == before.tasks
    assert config.model == before.model


def test_a_setting_that_is_newer_than_the_last_run_counts_as_its_default() -> None:
    now = Config().model_dump(mode="json")
    before = {table: dict(rows) if isinstance(rows, dict) else rows for table, rows in now.items()}
    del before["report"]["events_mb"]
    assert changes(before, now) == []
    now["report"]["events_mb"] = 8
    assert changes(before, now) == ["report.events_mb 64 → 8"]


def test_a_users_default_profile_does_not_change_built_in_ones(home: Path) -> None:
    """They extend no profile: what they leave out has the defaults, which are the default profile."""
    names = profiles.builtin_names() - {"default"}
    before = {name: resolved(name).config for name in names}
    assert resolved("default").config == Config.model_validate({"node": {"name": "default"}})
    write_profile(home, "default", 'extends = "default"\n[model]\nname = "org/mine"\n[train]\nbeta = 0.5\n')
    assert {name: resolved(name).config for name in names} == before


def test_the_profile_is_chosen_by_flag_then_node_then_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert profiles.chosen(None) == "default"
    monkeypatch.setenv("SWARMCTL_PROFILE", "cpu")
    assert profiles.chosen(None) == "cpu"
    assert profiles.chosen(None, "gpu") == "gpu"
    assert profiles.chosen("mac", "gpu") == "mac"


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"[train\n", "not valid TOML"), (b"a = '\xff'", "not UTF-8"), (b"extends = 3", "extends must be a string")],
)
def test_unreadable_profiles_are_explained(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "my profile.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=told) as caught:
        profiles.read(path)
    words = shlex.split(caught.value.next or "")
    assert words == ["swarmctl", "profiles", "validate" if "extends" in told else "edit", str(path)]


def test_an_assignment_needs_an_equals_sign() -> None:
    with pytest.raises(UsageError, match="KEY=VALUE"):
        override("train.beta")


@pytest.mark.parametrize(
    ("key", "command"),
    [
        ("openai_api_key", "keys set openai"),
        ("model.hf_token", "keys set huggingface"),
        ("report.wandb_api_key", "keys set wandb"),
        ("node.password", "keys set --help"),
    ],
)
def test_a_key_among_the_settings_is_refused_with_the_command_that_takes_it(
    key: str, command: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "sk-proj-Abcdefghijklmnop0123456789"
    section, _, name = key.rpartition(".")
    table = f"[{section}]\n" if section else ""
    write_profile(home, "leaky", f'extends = "demo"\n{table}{name} = "{secret}"\n')
    variable = "SWARMCTL_" + key.upper().replace(".", "__")

    def refused(*arguments: str, leaked: bool, following: str = command) -> None:
        assert cli.run(arguments) == Exit.CONFIGURATION
        out, err = capsys.readouterr()
        assert ("is leaked" in err) == leaked
        assert f"with `swarmctl {command.removesuffix(' --help')}`, which does not show" in out + err
        assert err.rstrip().endswith(following)
        assert secret not in out + err

    refused("run", "-p", "leaky", leaked=False)
    refused("profiles", "validate", "leaky", leaked=False, following="")
    refused("run", "-p", "demo", "--set", f"{key}={secret}", leaked=True)
    refused("profiles", "new", "mine", "--no-input", "--set", f"{key}={secret}", leaked=True)
    monkeypatch.setenv(variable, secret)
    refused("run", "-p", "demo", leaked=False)


def test_a_key_next_to_a_provider_belongs_to_that_provider() -> None:
    for provider, cure in (("groq", "swarmctl keys set groq"), ("off", "swarmctl keys set --help")):
        with pytest.raises(ConfigurationError) as caught:
            resolved("default", f"offload.provider={provider}", "offload.api_key=text")
        assert caught.value.next == cure


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("offload.max_token=32", "offload.max_tokens"),
        ("generation.max_completion_token=64", "generation.max_completion_tokens"),
        ("max_tokens=64", "offload.max_tokens or judge.max_tokens"),
    ],
)
def test_a_mistyped_limit_on_tokens_is_no_leaked_key(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["run", "-p", "demo", "--dry-run", "--set", typed]) == Exit.CONFIGURATION
    assert f"unknown setting {typed.partition('=')[0]}; did you mean {meant}?\n" in capsys.readouterr().err
