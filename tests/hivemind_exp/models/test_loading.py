"""Load models from directories and from a hub, with a clear error for each way this can fail."""

from __future__ import annotations

import json
import os
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from hivemind_exp.config import ModelConfig
from hivemind_exp.errors import ModelError
from hivemind_exp.game.sampling.game import build_prompts
from hivemind_exp.models.loading import load_model, load_tokenizer, locate
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Question
from tests.support import own_environment
from tests.support.fake_hub import serve_hub
from tests.support.nodes import Events, make_config, run
from tests.support.restarts import finished, processes
from tests.support.tiny_models import save_encoder_decoder, save_llama


def load(environment: dict[str, str], models: list[tuple[str, str | None]], answers: SimpleQueue[list[str]]) -> None:
    """Load models in a separate process, and answer for each."""
    own_environment.use(environment)
    for name, revision in models:
        config = ModelConfig(name=name, revision=revision)
        try:
            before = locate(config).place
            tokenizer = load_tokenizer(config)
            model = load_model(config, tokenizer, dtype="float32", seed=0)
            answers.put([before, locate(config).place, type(model).__name__])
        except ModelError as error:
            answers.put([error.code, error.message])


def load_through(endpoint: str, home: Path, *models: tuple[str, str | None]) -> list[list[str]]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    context = processes()
    answers = context.SimpleQueue()
    finished(context, load, environment, list(models), answers)
    return [answers.get() for _ in models]


@pytest.mark.slow
def test_models_load_from_the_hub_or_the_error_has_the_exact_reason(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("nothing else")
    models = {"org/tiny": save_llama(tmp_path / "llama"), "org/empty": tmp_path / "empty"}
    with serve_hub(models, gated=("org/gated",)) as endpoint:
        found = load_through(
            endpoint,
            tmp_path / "home",
            ("org/tiny", None),
            ("org/gated", None),
            ("org/absent", None),
            ("org/tiny", "no-such-branch"),
            ("org/empty", None),
        )
    assert found[0] == ["will be downloaded", "cached", "LlamaForCausalLM"]
    assert "is gated" in found[1][1]
    assert "unknown model 'org/absent'" in found[2][1]
    assert "no revision no-such-branch" in found[3][1]
    assert "no model in org/empty on the hub: config.json is missing" in found[4][1]
    assert [answer[0] for answer in found[1:]] == ["model"] * 4
    # Now the hub is down, and the cache still works.
    again = load_through(endpoint, tmp_path / "home", ("org/tiny", None), ("org/other", None))
    assert again[0] == ["cached", "cached", "LlamaForCausalLM"]
    assert again[1][0] == "hub_unreachable"
    assert "is unreachable" in again[1][1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "cannot load a model from nowhere: no such directory"),
        ("/nowhere/at/all", "cannot load a model from /nowhere/at/all: no such directory"),
        ("~/nowhere-at-all", "cannot load a model from /.*/nowhere-at-all: no such directory"),
        ("a/b/c", "cannot load a model from a/b/c: no such directory"),
    ],
)
def test_a_missing_path_is_not_requested_from_the_hub(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_tokenizer(ModelConfig(name=name))
    with pytest.raises(ModelError, match=message):
        locate(ModelConfig(name=name))


def test_the_next_command_lists_the_nearest_existing_directory(tmp_path: Path) -> None:
    (tmp_path / "my models").mkdir()
    with pytest.raises(ModelError) as caught:
        locate(ModelConfig(name=str(tmp_path / "my models" / "qwen" / "large")))
    assert caught.value.next == f"ls '{tmp_path}/my models'"


def test_a_directory_without_a_model_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model in /.*: config\.json is missing"):
        load_tokenizer(ModelConfig(name=str(tmp_path)))


@pytest.mark.slow
def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    config = ModelConfig(name=str(save_encoder_decoder(tmp_path)))
    with pytest.raises(ModelError, match="not a causal language model"):
        locate(config)
    with pytest.raises(ModelError, match="not a causal language model"):
        load_model(config, load_tokenizer(config), dtype="float32", seed=0)


def test_damaged_weights_are_an_error(tmp_path: Path) -> None:
    config = ModelConfig(name=str(save_llama(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(config, load_tokenizer(config), dtype="float32", seed=0)


def test_a_local_model_is_sized_without_loading_it(tmp_path: Path) -> None:
    where = locate(ModelConfig(name=str(save_llama(tmp_path))))
    assert where.place == "local directory"
    assert where.parameters is not None
    assert 10_000 < where.parameters < 50_000


@pytest.mark.slow
@pytest.mark.parametrize("model", [{}, {"lora": {"rank": 4}}, {"lora": {"rank": 4, "targets": "q_proj, v_proj"}}])
def test_a_real_model_trains_and_its_checkpoint_loads_again(tmp_path: Path, model: dict[str, object]) -> None:
    name = str(save_llama(tmp_path / "model"))
    config = make_config(
        model={"name": name, **model}, game={"rounds": 2}, generation={"max_prompt_tokens": 512, "batch": 4}
    )
    events = Events()
    assert run(config, tmp_path / "node", emit=events).step == 2
    started = events.of("start")[0]
    assert (started["trainable"] < started["parameters"]) == bool(model)
    saved = max((tmp_path / "node" / "checkpoints").iterdir()) / "model"
    if model:
        import peft

        assert peft.PeftConfig.from_pretrained(saved).base_model_name_or_path == name
    else:
        reloaded = ModelConfig(name=str(saved))
        load_model(reloaded, load_tokenizer(reloaded), dtype="float32", seed=0)


@pytest.mark.slow
def test_sampling_ignores_the_models_own_defaults_and_ends_at_its_end_of_turn(tmp_path: Path) -> None:
    config = ModelConfig(name=str(save_llama(tmp_path)))
    tokenizer = load_tokenizer(config)
    model = load_model(config, tokenizer, dtype="float32", seed=0)
    settings = make_config(generation={"max_completion_tokens": 40, "max_prompt_tokens": 400, "batch": 64}).generation
    source = LocalSource(model, tokenizer, settings, StopFlag())
    prompt = build_prompts([Question("t", "train", 0, 0, "hello", {}, "d", "k")], tokenizer)
    [rollouts] = source.generate(prompt, 64, seed=1)
    for rollout in rollouts:
        ends = [i for i, token in enumerate(rollout.ids) if token in (1, 5)]
        assert ends == ([] if rollout.truncated else [len(rollout.ids) - 1])
    assert any(not rollout.truncated for rollout in rollouts)
    # With the model's own top_k = 20, at most 20 different first tokens could occur. An untrained model uses far more.
    assert len({rollout.ids[0] for rollout in rollouts}) > 20
    assert source.generate(prompt, 4, seed=1)[0] == source.generate(prompt, 4, seed=1)[0]
    assert source.generate(prompt, 4, seed=1)[0] != source.generate(prompt, 4, seed=2)[0]


def test_checkpoints_contain_no_sampling_defaults_of_the_base_model(tmp_path: Path) -> None:
    config = ModelConfig(name=str(save_llama(tmp_path / "base")))
    assert json.loads((tmp_path / "base/generation_config.json").read_text())["repetition_penalty"] == 1.3
    load_model(config, load_tokenizer(config), dtype="float32", seed=0).save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/generation_config.json").read_text())
    neutral = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    assert {name: saved.pop(name, neutral[name]) for name in neutral} == neutral
    assert saved.pop("eos_token_id") == [1, 5]
    assert saved.keys() <= {"bos_token_id", "pad_token_id", "_from_model_config", "transformers_version"}


def test_the_tiny_model_samples_plainly_where_a_checkpoint_is_loaded(tmp_path: Path) -> None:
    config = ModelConfig(name="tiny")
    load_model(config, load_tokenizer(config), dtype="float32", seed=0).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert (saved["do_sample"], saved["top_k"], saved["eos_token_id"]) == (True, 0, 1)
    loaded = GenerationConfig.from_pretrained(str(tmp_path))
    assert (loaded.temperature, loaded.top_p, loaded.repetition_penalty) == (1.0, 1.0, 1.0)


def test_prompts_use_the_models_chat_format(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(ModelConfig(name=str(save_llama(tmp_path))))
    [prompt] = build_prompts([Question("t", "train", 0, 0, "What is 2 + 2?", {}, "d", "k")], tokenizer)
    text = tokenizer.decode(prompt.ids)
    assert text.startswith("[system]Think about the question first")
    assert text.endswith("[user]What is 2 + 2?\n[assistant]")


def test_a_base_model_without_chat_format_gets_plain_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(ModelConfig(name=str(save_llama(tmp_path))))
    tokenizer.chat_template = None
    [prompt] = build_prompts([Question("t", "train", 0, 0, "What is 2 + 2?", {}, "d", "k")], tokenizer)
    assert tokenizer.decode(prompt.ids).endswith("\n\nWhat is 2 + 2?\n\n")


def test_weights_are_float32_unless_they_are_frozen_under_adapters(tmp_path: Path) -> None:
    name = str(save_llama(tmp_path))
    tokenizer = load_tokenizer(ModelConfig(name=name))
    whole = load_model(ModelConfig(name=name), tokenizer, dtype="bfloat16", seed=0)
    frozen = load_model(ModelConfig.model_validate({"name": name, "lora": {}}), tokenizer, dtype="bfloat16", seed=0)
    assert {whole.dtype, frozen.dtype} == {torch.float32, torch.bfloat16}
