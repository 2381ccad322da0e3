"""``swarmctl profiles import``: every key is reported, no secret is imported, no file does harm."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.errors import ConfigurationError
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.keys.finder import KeyFinder
from swarmctl.profiles.importing import rl_swarm as rlswarm
from swarmctl.profiles.importing.convert import BAD_VALUE, NO_COUNTERPART, SECRET, UNKNOWN, mapped
from swarmctl.profiles.importing.yaml_file import MAX_BYTES, read_yaml
from swarmctl.settings.schema import dotted, settings
from swarmctl.terminal.prompter import Prompter
from tests.support.command_line import write_profile

USUAL = """
model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct
model_revision: main
torch_dtype: bfloat16
bf16: true
tf32: true
attn_implementation: flash_attention_2
dataset_id_or_path: 'openai/gsm8k'
max_steps: 20
gradient_accumulation_steps: 4
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: false
learning_rate: 5e-7
lr_scheduler_type: cosine
warmup_ratio: 0.03
use_vllm: true
vllm_device: auto
vllm_gpu_memory_utilization: 0.5
num_generations: 2
per_device_train_batch_size: 4
beta: 0.001
max_prompt_length: 256
max_completion_length: 1024
logging_strategy: steps
logging_steps: 2
report_to:
- tensorboard
save_strategy: "steps"
save_steps: 25
seed: 42
public_maddr: "/ip4/192.0.2.1/tcp/38331"
host_maddr: "/ip4/0.0.0.0/tcp/38331"
max_rounds: 10000
output_dir: runs/gsm8k
"""
API_KEY = "sk-proj-Abcdefghijklmnop0123456789"
HUB_TOKEN = "hf_Abcdefghijklmnopqrstuvwxyz"
ODD_SECRET = "correct horse battery staple"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "old.yaml"
    path.write_text(USUAL, encoding="utf-8")
    return path


def imported(file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert cli.run(["profiles", "import", str(file), "--json"]) == Exit.DONE
    report = json.loads(capsys.readouterr().out)
    assert isinstance(report, dict)
    return report


def kinds(report: dict[str, Any]) -> dict[str, str]:
    return {left["key"]: left["kind"] for left in report["left"]}


def test_the_usual_configuration(file: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = imported(file, capsys)
    assert tomllib.loads((home / "profiles/old.toml").read_text(encoding="utf-8")) == {
        "description": "imported from RL Swarm",
        "tasks": ["gsm8k"],
        "node": {"seed": 42},
        "model": {
            "name": "Qwen/Qwen2.5-0.5B-Instruct",
            "revision": "main",
            "dtype": "bfloat16",
            "gradient_checkpointing": True,
        },
        "game": {"rounds": 10000, "groups": 8, "group_size": 2},
        "generation": {"max_prompt_tokens": 256, "max_completion_tokens": 1024},
        "train": {"learning_rate": 5e-7, "micro_batch": 4, "beta": 0.001},
        "checkpoint": {"every": 25},
        "report": {"to": ["tensorboard"]},
    }
    assert set(kinds(report).values()) == {NO_COUNTERPART}
    assert cli.run(["profiles", "validate", "old"]) == Exit.DONE


def test_every_key_is_reported(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = imported(file, capsys)
    told = {each["key"].split(".")[0] for each in [*report["carried"], *report["left"]]}
    assert told == {line.split(":")[0] for line in USUAL.splitlines() if line[:1].isalpha()}
    assert all(left["why"] for left in report["left"])


def test_text_output(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(
        USUAL
        + "num_generation: 3\nuse_openai_api: true\nopenai_model_name: gpt-4o-mini\nweight_decay: -7\nepsilon: 7\n"
    )
    assert cli.run(["profiles", "import", str(file), "--name", "maths"]) == Exit.DONE
    out, err = capsys.readouterr()
    assert "  num_generations -> game.group_size = 2\n" in out
    assert "Unknown:\n  num_generation: did you mean num_generations?\n" in out
    assert '  use_openai_api -> offload.provider = "openai"\n' in out
    assert '  openai_model_name -> offload.model = "gpt-4o-mini"\n' in out
    skipped = "  weight_decay: invalid train.weight_decay: -7.0. Use a number of at least 0\n"
    assert f"Skipped because of an invalid value:\n{skipped}" in out
    assert out.rstrip().endswith("run --profile maths")
    assert err == ""


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (f"openai_api_key: {API_KEY}", ["openai"]),
        (f"hf_token: {HUB_TOKEN}\nwandb_api_key: '{ODD_SECRET}'", ["huggingface", "wandb"]),
        (f"anything:\n  deep: ['{API_KEY}']", []),
        (f"training: {{hub_token: '{ODD_SECRET}'}}", ["huggingface"]),
        (f"model_name_or_path: {HUB_TOKEN}", []),
        (f"{API_KEY}: 1", []),
        (f"my_password: '{ODD_SECRET}'", []),
        (f"reports: [{{url: 'https://me:{API_KEY}@host'}}]", []),
    ],
)
def test_a_secret_is_neither_written_nor_printed(
    lines: str, names: list[str], tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(lines + "\nseed: 7\n", encoding="utf-8")
    code = cli.run(["profiles", "import", str(file), "--no-test"])
    out, err = capsys.readouterr()
    assert code == (Exit.CONFIGURATION if names else Exit.DONE), "without a keyring no key is kept anywhere unasked"
    assert not (home / "secrets").exists()
    what, it = ("a secret", "it") if len(names) < 2 else ("secrets", "them")
    assert f"{file} contains {what} (" in err
    assert f"revoke {it}" in err
    for name in names or ["NAME"]:
        assert f"keys set {name}" in err
    assert cli.run(["profiles", "import", str(file), "--no-test", "--yes", "--json"]) == code
    report = capsys.readouterr().out
    secrets = json.loads(report)["secrets"]
    assert [each["name"] for each in secrets if each["name"]] == names
    assert all(each["why"] and not each["saved"] for each in secrets)
    assert SECRET in kinds(json.loads(report)).values()
    profile = (home / "profiles/old.toml").read_text(encoding="utf-8")
    assert "seed = 7" in profile
    for secret in (API_KEY, HUB_TOKEN, ODD_SECRET):
        assert secret not in out + err + report + profile


def test_an_api_key_is_saved_like_with_keys_set(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(f"seed: 7\nopenai_api_key: '{API_KEY}'  # mine\ntraining:\n  hub_token: {HUB_TOKEN}\n")
    command = ["profiles", "import", str(file), "--no-test", "--insecure-storage"]
    assert cli.run(command) == Exit.DONE
    out, err = capsys.readouterr()
    assert "Saved key openai ····6789 for api.openai.com in" in err
    assert "Saved key huggingface ····wxyz for huggingface.co in" in err
    assert API_KEY not in out + err
    assert "keys set" not in err, "no key is left to save"
    for name, key in (("openai", API_KEY), ("huggingface", HUB_TOKEN)):
        found = KeyFinder(Prompter(silent=True), {}).find(name)
        assert found is not None
        assert found.value == key
    cure = next(line for line in err.splitlines() if line.startswith("  sed "))
    assert subprocess.run(cure, shell=True, check=False).returncode == 0
    assert file.read_text() == "seed: 7\ntraining:\n"
    assert list(tmp_path.glob("*.bak")) == []


def test_a_key_of_another_service_is_not_saved_but_the_others_are(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(f"openai_api_key: {HUB_TOKEN}\nhf_token: {HUB_TOKEN}\n")
    assert cli.run(["profiles", "import", str(file), "--no-test", "--insecure-storage", "--yes"]) == Exit.CONFIGURATION
    err = capsys.readouterr().err
    assert err.count("this looks like a key for huggingface, not for openai") == 1
    assert "error: 1 of 2 keys was not saved\n" in err
    assert err.rstrip().endswith("keys set openai --insecure-storage --yes")
    assert [path.name for path in (home / "secrets").iterdir()] == ["huggingface.json"]
    assert (home / "profiles/old.toml").exists()


def test_a_key_is_tested_if_its_service_is_reachable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    file = tmp_path / "old.yaml"
    file.write_text(f"openai_api_key: {API_KEY}\n")
    assert cli.run(["profiles", "import", str(file), "--insecure-storage", "--json"]) == Exit.DONE
    out, err = capsys.readouterr()
    assert "warning: could not test the key" in err
    assert json.loads(out)["secrets"] == [{"key": "openai_api_key", "name": "openai", "saved": True, "why": None}]


@pytest.mark.parametrize("line", ["training: {{hub_token: {}}}", "hub_token: >\n  {}", "hub_token: [{}]"])
def test_no_removal_command_for_a_key_that_shares_its_line(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(line.format(HUB_TOKEN) + "\n")
    cli.run(["profiles", "import", str(file), "--no-test", "--insecure-storage"])
    err = capsys.readouterr().err
    assert "contains a secret" in err
    assert "sed" not in err


def test_an_empty_secret_is_not_a_secret() -> None:
    result = mapped({"hf_token": None, "openai_api_key": ""})
    assert result.secrets == []
    assert {left.kind for left in result.left} == {NO_COUNTERPART}


def test_offloading_to_openai() -> None:
    def of(**settings_: Any) -> dict[str, Any]:
        return {each.setting: each.value for each in mapped(settings_).carried}

    on = {"use_openai_api": True, "openai_model_name": "gpt-4o-mini"}
    assert of(**on) == {"offload.provider": "openai", "offload.model": "gpt-4o-mini"}
    assert of(**on, openai_base_url="https://api.openai.com/v1/") == of(**on)
    assert of(**on, openai_base_url="http://192.168.1.20:8000/v1") == {}
    assert of(use_openai_api=False, openai_model_name="gpt-4o-mini") == {}


def test_a_key_for_another_server_is_not_saved_as_openais() -> None:
    def name(url: str | None) -> str:
        return mapped({"openai_base_url": url, "openai_api_key": API_KEY}).secrets[0].name

    assert name("http://192.168.1.20:8000/v1") == ""
    assert name("https://api.openai.com.evil.example/v1") == ""
    assert name("https://api.openai.com/v1") == "openai"
    assert name(None) == "openai"


def test_pushing_to_the_hub() -> None:
    def of(**settings_: Any) -> dict[str, Any]:
        return {each.setting: each.value for each in mapped(settings_).carried}

    assert of(push_to_hub=True, hub_model_id="me/x", hub_private_repo=False, save_steps=25) == {
        "hub.repo": "me/x",
        "hub.private": False,
        "hub.every": 25,
        "checkpoint.every": 25,
    }
    assert of(push_to_hub=True, hub_model_id="me/x")["hub.every"] == 500
    end = {"push_to_hub": True, "hub_model_id": "me/x", "hub_strategy": "end"}
    assert of(**end, max_rounds=9)["hub.every"] == 0
    assert of(**end)["hub.every"] == 500, "a node without a last round has no end"
    assert of(push_to_hub=False, hub_model_id="me/x") == {}
    assert of(push_to_hub=True, hub_model_id="without-owner") == {}


def test_adapters_are_imported_only_if_enabled() -> None:
    on = mapped({"use_peft": True, "lora_r": 8, "lora_alpha": 64, "lora_target_modules": ["q_proj", "v_proj"]})
    assert {each.setting: each.value for each in on.carried} == {
        "model.lora.rank": 8,
        "model.lora.alpha": 64,
        "model.lora.targets": "q_proj,v_proj",
    }
    assert {each.setting: each.value for each in mapped({"use_peft": True}).carried} == {"model.lora.rank": 16}
    assert mapped({"lora_r": 8}).carried == []


def test_invalid_values_are_left_out() -> None:
    settings_ = {"seed": "many", "learning_rate": True, "num_generations": 2.5, "dataset_id_or_path": "some/set"}
    assert {left.key: left.kind for left in mapped(settings_).left} == dict.fromkeys(settings_, BAD_VALUE)


def test_two_keys_for_one_setting() -> None:
    result = mapped({"bf16": True, "fp16": False, "torch_dtype": "float32"})
    assert [(each.key, each.value) for each in result.carried] == [("torch_dtype", "float32")]
    assert {left.key for left in result.left} == {"bf16", "fp16"}
    assert [each.value for each in mapped({"bf16": True}).carried] == ["bfloat16"]


def test_unsupported_report_targets_are_reported() -> None:
    result = mapped({"report_to": ["wandb", "mlflow"]})
    assert [each.value for each in result.carried] == [["wandb"]]
    assert [left.key for left in result.left] == ["report_to"]
    assert mapped({"report_to": "none"}).carried == []


def test_unknown_keys_are_reported() -> None:
    assert mapped({"flux_capacitor": 1}).left[0].kind == UNKNOWN
    assert mapped({"pad_token": "<pad>"}).left[0].kind == UNKNOWN, "a token of text is no secret"


def test_every_target_setting_exists() -> None:
    known = {dotted(path) for path in settings()}
    for table in (rlswarm.CONVERTED, rlswarm.LORA, rlswarm.HUB):
        assert {carry.setting for carry in table.values()} <= known
    tables = (rlswarm.CONVERTED, rlswarm.DROPPED, dict.fromkeys(rlswarm.SPECIAL))
    assert sum(map(len, tables)) == len(rlswarm.KNOWN), "no key is in two tables"


def test_jsonl_paths_are_relative_to_the_file(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "questions.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n' * 300, encoding="utf-8")
    file = tmp_path / "own.yaml"
    file.write_text("dataset_id_or_path: questions.jsonl\nmodel_name_or_path: ./weights\n", encoding="utf-8")
    imported(file, capsys)
    values = tomllib.loads((home / "profiles/own.toml").read_text(encoding="utf-8"))
    assert values["model"]["name"] == str(tmp_path / "weights")
    assert values["tasks"] == [{"name": "jsonl", "path": str(tmp_path / "questions.jsonl")}]


def test_a_profile_is_not_overwritten(file: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_profile(home, "old", "# mine\n")
    assert cli.run(["profiles", "import", str(file)]) == Exit.CONFIGURATION
    assert "--yes" in capsys.readouterr().err
    assert path.read_text() == "# mine\n"


def test_a_file_name_that_is_not_a_valid_profile_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my old one.yaml"
    file.write_text("seed: 1", encoding="utf-8")
    assert cli.run(["profiles", "import", str(file)]) == Exit.USAGE
    assert "invalid profile name: 'my old one'" in capsys.readouterr().err
    assert cli.run(["profiles", "import", str(file), "--name", "old"]) == Exit.DONE


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"a: [", "not valid YAML at line 1"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"when: 2024-99-99", "not valid YAML"),
        (b"n: " + b"9" * 5000, "not valid YAML"),
        (b"x: !!python/object/apply:os.system ['true']", "not valid YAML at line 1"),
        (b"- a\n- b\n", "KEY: VALUE"),
        (b"", "KEY: VALUE"),
        (b"seed: 1\nbeta: 0\nseed: 2\n", "line 1 twice"),
        (BOMB.encode(), "aliases"),
        (b"[" * 5000, "nested too deeply: the limit is 20 levels"),
        (b"a: 1\n" + b"#" * MAX_BYTES, "too large for a configuration: the limit is 256 KiB"),
        (f"openai_api_key: {API_KEY}\n  bad: [".encode(), "not valid YAML at line"),
    ],
)
def test_harmful_files_are_rejected(data: bytes, told: str, tmp_path: Path, home: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_bytes(data)
    with pytest.raises(ConfigurationError) as caught:
        read_yaml(file)
    assert told in caught.value.message
    assert API_KEY not in caught.value.message
    assert cli.run(["profiles", "import", str(file)]) == Exit.CONFIGURATION
    assert not list(home.rglob("*.toml"))


def test_a_missing_file(tmp_path: Path) -> None:
    assert cli.run(["profiles", "import", str(tmp_path / "none.yaml")]) == Exit.CONFIGURATION
