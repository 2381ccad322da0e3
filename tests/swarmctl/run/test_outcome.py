"""What a run that fails suggests."""

from __future__ import annotations

import pytest

from hivemind_exp.config import Config
from hivemind_exp.errors import NodeError
from swarmctl.run.outcome import changes_nothing, completed, retry_hint
from swarmctl.settings import profile_files
from swarmctl.settings.resolve import override, resolve
from tests.support.command_line import Cli, told


@pytest.mark.parametrize(
    ("following", "nothing"),
    [
        ("swarmctl run --model Qwen/Qwen2.5-0.5B-Instruct", True),
        ("swarmctl run --model Qwen/Qwen2.5-0.5B", False),
        ("swarmctl run --node n --set generation.max_completion_tokens=1", True),
        ("swarmctl run --node other --set generation.max_completion_tokens=1", False),
        ("swarmctl run --set model.gradient_checkpointing=true --set train.micro_batch=1", True),
        ("swarmctl run --set model.gradient_checkpointing=true --set train.micro_batch=2", False),
        ("swarmctl run --profile demo", False),
        ("swarmctl run --node n", False),
        ("swarmctl run", False),
        ("swarmctl doctor --set train.micro_batch=1", False),
        (None, False),
    ],
)
def test_a_run_with_the_same_settings_leads_nowhere(following: str | None, nothing: bool) -> None:
    model = {"name": "Qwen/Qwen2.5-0.5B-Instruct", "gradient_checkpointing": True}
    sections = {"node": {"name": "n"}, "generation": {"max_completion_tokens": 1}, "train": {"micro_batch": 1}}
    assert changes_nothing(following, Config.model_validate({"model": model, **sections})) is nothing


@pytest.mark.slow
def test_instead_of_a_run_that_changes_nothing_the_setup_is_checked(stand_in: Cli) -> None:
    refused = stand_in("run", "--model", "Qwen/Qwen2.5-0.5B-Instruct", act="damaged_model")
    assert told(refused)[1].endswith(" doctor --node default")
    refused = stand_in("run", "--node", "other", "--model", "another/model", act="damaged_model")
    assert told(refused)[1].endswith(" run --node other --model Qwen/Qwen2.5-0.5B-Instruct")


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        (["providers.box.base_url=http://127.0.0.1:9/v1"], "swarmctl models box --profile demo --set {typed}"),
        (["offload.provider=ollama:m"], "swarmctl models openai"),
    ],
)
def test_the_command_that_lists_models_knows_your_own_providers(typed: list[str], suggested: str) -> None:
    words = [*typed, "train.micro_batch=2"]
    resolved = resolve(profile_files.read(profile_files.find_builtin("demo")), [override(each) for each in words], {})
    with pytest.raises(NodeError) as caught, retry_hint(resolved):
        raise NodeError("rejected", next=" ".join(suggested.split()[:3]))
    assert caught.value.next == suggested.format(typed=typed[0])


def test_the_trainers_advice_applies_to_the_same_node() -> None:
    same = "swarmctl run --node x"
    assert completed("swarmctl run --device cpu", same) == "swarmctl run --node x --device cpu"
    assert completed("swarmctl run --profile demo", same) == "swarmctl run --profile demo"
    assert completed("swarmctl run --node y --set a.b=1", same) == "swarmctl run --node y --set a.b=1"
    assert completed("df -h /", same) == "df -h /"
    asked = "swarmctl run --node x --set tasks=wrong --set train.beta=0.1 --set train.micro_batch=4"
    assert completed("swarmctl run --task right", asked) == (
        "swarmctl run --node x --set train.beta=0.1 --set train.micro_batch=4 --task right"
    )
    assert completed("swarmctl run --set train.micro_batch=2", asked) == (
        "swarmctl run --node x --set tasks=wrong --set train.beta=0.1 --set train.micro_batch=2"
    )
    asked = "swarmctl run --task wrong --offload openai:old --max-usd 2"
    assert completed("swarmctl run --task right", asked) == (
        "swarmctl run --offload openai:old --max-usd 2 --task right"
    )
    assert completed("swarmctl run --set offload.model=new", asked) == (
        "swarmctl run --task wrong --set offload.provider=openai --max-usd 2 --set offload.model=new"
    )
    assert completed(None, same) == same
    asked = "swarmctl run --node x --set offload.provider=opnai --set offload.model="
    assert completed("swarmctl run --offload openai", asked) == "swarmctl run --node x --offload openai"
