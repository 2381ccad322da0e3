"""Before the first round, models that would train on wrong values are refused or made to work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MptConfig,
    RecurrentGemmaConfig,
    RecurrentGemmaForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
)

from hivemind_exp.config import Config, ModelConfig
from hivemind_exp.errors import ConfigurationError, ModelError, NodeError
from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.models.loading import load_model, load_tokenizer
from hivemind_exp.models.model_checks import check_head, check_lengths
from hivemind_exp.runner.dry_run import describe
from hivemind_exp.source_kinds import Kind
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from tests.support.broken_models import (
    SHAPE,
    TOKENIZER,
    another_norm,
    another_shape,
    change_weights,
    classifier,
    classifier_by_another_name,
    damaged_pickle,
    damaged_tokenizer,
    empty_pickle,
    endless_layers,
    fewer_layers,
    gpt2,
    half,
    ignored_biases,
    list_for_defaults,
    list_for_settings,
    list_for_tokenizer,
    llama,
    negative_size,
    no_heads,
    no_layers,
    only_a_type,
    only_a_type_beside_a_pickle,
    own_code,
    pointer,
    quantized,
    replaced,
    save,
    too_few_rows,
    unmerged_adapter,
    with_extra,
    with_nan,
    words_for_numbers,
)
from tests.support.nodes import make_config, run

REFUSED = {
    fewer_layers: r"9 weights have no place in the model that config\.json describes \(model\.layers\.1\.",
    no_layers: r"18 weights have no place in the model",
    ignored_biases: r"1 weights have no place in the model .*q_proj\.bias",
    unmerged_adapter: r"1 weights have no place in the model .*lora_A\.weight",
    another_norm: r"1 weights have no place in the model .*q_norm\.weight",
    no_heads: "zero",
    words_for_numbers: "hidden_size",
    negative_size: "negative dimension",
    list_for_settings: "model",
    list_for_tokenizer: "has no tokenizer that can be loaded",
    damaged_tokenizer: "has no tokenizer that can be loaded",
    list_for_defaults: "cannot be loaded as a causal language model",
    empty_pickle: "its weights are damaged",
    damaged_pickle: "its weights are damaged",
    half: r"9 weights are missing \(model\.layers\.1\.input_layernorm\.weight; .*; …\)",
    classifier: "is a LlamaForSequenceClassification, not a causal language model",
    classifier_by_another_name: r"1 weights are missing \(lm_head\.weight\)",
    another_shape: r"6 weights have the wrong shape \(model\.layers\..*_proj\.weight is \(32, 64\), not \(32, 128\)",
    own_code: r"such code is never run \(trust_remote_code = False\)",
    quantized: r"is quantized \(gptq\)",
    too_few_rows: r"has token 259 \(.*\), but the model has only 259 embeddings",
    only_a_type: "weights are missing",
    only_a_type_beside_a_pickle: "weights are missing",
    endless_layers: r"describes a model of 1000000 layers; it is damaged",
    pointer: "its weights are damaged or only Git LFS pointers",
}


@pytest.mark.slow
@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_unusable_models_are_refused_by_the_dry_run_and_by_the_run(make: Any, tmp_path: Path) -> None:
    name = str(make(tmp_path / "model"))
    config = make_config(model={"name": name}, generation={"max_prompt_tokens": 400})
    for start in (lambda: describe(config), lambda: run(config, tmp_path / "node")):
        with pytest.raises(NodeError, match=REFUSED[make]) as caught:
            start()
        assert isinstance(caught.value, ModelError)
        assert name in caught.value.message


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_weight_that_is_not_a_number_is_named(tmp_path: Path, dtype: str) -> None:
    name = str(change_weights(save(tmp_path, LlamaForCausalLM(llama())), with_nan))
    config = ModelConfig.model_validate({"name": name, "lora": dtype == "bfloat16"})
    with pytest.raises(ModelError, match=r"not finite \(model\.layers\.0\.mlp\.down_proj\.weight\)"):
        load_model(config, load_tokenizer(config), dtype=dtype, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda key, each: each * 0 if "layers.1" in key else each, r"7 of the 16 matrices .* contain only zeros"),
        (lambda key, each: torch.full_like(each, 1e30) if "norm" in key else each, "scores that are not finite"),
        (lambda key, each: each * 0 if key == "lm_head.weight" else each, "the same score for every token"),
    ],
)
def test_weights_that_cannot_be_trained_ones_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    saved = save(tmp_path, LlamaForCausalLM(llama()))
    change_weights(saved, lambda weights: {key: change(key, each) for key, each in weights.items()})
    config = ModelConfig(name=str(saved))
    with pytest.raises(ModelError, match=message):
        load_model(config, load_tokenizer(config), dtype="float32", seed=0)


def test_ends_that_are_not_tokens_are_refused(tmp_path: Path) -> None:
    config = ModelConfig(name=str(replaced(tmp_path, "generation_config.json", '{"eos_token_id": [2, "end"]}')))
    with pytest.raises(ModelError, match=r"eos_token_id in its generation_config\.json is not a number"):
        load_model(config, load_tokenizer(config), dtype="float32", seed=0)


@pytest.mark.parametrize("key", ["v_head.summary.weight", "score.weight", "vision_tower.layers.0.norm.weight"])
def test_other_heads_and_parts_for_pictures_are_not_needed(tmp_path: Path, key: str) -> None:
    config = ModelConfig(name=str(with_extra(tmp_path, key)))
    load_model(config, load_tokenizer(config), dtype="float32", seed=0)


def test_a_model_whose_log_probabilities_trl_computes_differently_is_refused() -> None:
    torch.manual_seed(0)
    shape = {"num_attention_heads": 4, "num_key_value_heads": 1, "lru_width": 32, "hidden_size": 32}
    check_head(LlamaForCausalLM(llama()), TOKENIZER, "lab/model")
    config = RecurrentGemmaConfig(vocab_size=len(TOKENIZER), num_hidden_layers=3, intermediate_size=64, **shape)
    capped = RecurrentGemmaForCausalLM(config).eval()  # it limits its logits
    with torch.no_grad():
        capped.lm_head.weight.mul_(50.0)
    ids = torch.tensor([[7, 8, 9]])
    before = capped(input_ids=ids).logits
    with pytest.raises(ModelError, match=r"computes probabilities in a way that TRL's trainer does not support"):
        check_head(capped, TOKENIZER, "lab/model")
    assert torch.equal(capped(input_ids=ids).logits, before)


def test_the_node_checks_how_log_probabilities_are_computed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"max_position_embeddings": 1002, "pad_token_id": TOKENIZER.pad_token_id, **SHAPE}
    model = RobertaForCausalLM(RobertaConfig(vocab_size=len(TOKENIZER), is_decoder=True, **shape))
    config = make_config(model={"name": str(save(tmp_path / "model", model))}, generation={"max_prompt_tokens": 400})
    with pytest.raises(ModelError, match="computes probabilities in a way that TRL's trainer does not support"):
        run(config, tmp_path / "node")


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    name = str(save(tmp_path, BertLMHeadModel(BertConfig(vocab_size=len(TOKENIZER), is_decoder=False, **SHAPE))))
    config = ModelConfig(name=name)
    with pytest.raises(ModelError, match="not a causal language model: a token depends on later ones"):
        load_model(config, load_tokenizer(config), dtype="float32", seed=0)


def test_absolute_positions_are_counted_without_padding(tmp_path: Path) -> None:
    name = str(save(tmp_path / "model", gpt2()))
    config = make_config(model={"name": name})
    tokenizer = load_tokenizer(config.model)
    model = load_model(config.model, tokenizer, dtype="float32", seed=0)
    step_trainer = SourceGRPOTrainer(model, tokenizer, config, tmp_path, device="cpu", dtype="float32")
    rows = [
        TrainingRow(Kind.POLICY, "local", "t", 0, tuple(range(10, 10 + prompt)), (50, 60, 70), "", 1.0, 1.0, 0)
        for prompt in (5, 40)
    ]
    together = step_trainer.log_probabilities(rows)
    for row, found in zip(rows, together, strict=True):
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        with torch.no_grad():
            alone = torch.log_softmax(gpt2().eval()(input_ids=ids).logits[0, :-1], -1)
        expected = alone.gather(1, ids[0, 1:, None])[-3:, 0].tolist()
        assert found == pytest.approx(expected, abs=1e-4)


def test_lengths_beyond_the_positions_are_refused_and_fitting_lengths_suggested(tmp_path: Path) -> None:
    name = str(save(tmp_path / "model", gpt2(positions=64)))
    config = make_config(model={"name": name}, generation={"max_prompt_tokens": 60, "max_completion_tokens": 8})
    message = "has 64 positions, but generation.max_prompt_tokens . generation.max_completion_tokens = 68"
    for start in (lambda: describe(config), lambda: run(config, tmp_path / "node")):
        with pytest.raises(ConfigurationError, match=message) as caught:
            start()
        assert str(caught.value.next).endswith("max_prompt_tokens=56 --set generation.max_completion_tokens=8")


def test_other_names_of_the_positions_count_too() -> None:
    generation = make_config(generation={"max_prompt_tokens": 60, "max_completion_tokens": 8}).generation
    with pytest.raises(ConfigurationError, match="has 64 positions"):
        check_lengths(MptConfig(max_seq_len=64), generation, "lab/model")
    check_lengths(llama(), generation, "lab/model")
    check_lengths(LlamaConfig(max_position_embeddings=-1), generation, "lab/model")


def test_adapters_on_modules_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    name = str(save(tmp_path / "model", LlamaForCausalLM(llama())))
    lora = {"targets": "q_proj, query"}
    config = make_config(model={"name": name, "lora": lora}, generation={"max_prompt_tokens": 400})
    message = r"model.lora.targets: the model has no module 'query'; it has .*q_proj"
    for start in (lambda: describe(config), lambda: run(config, tmp_path / "node")):
        with pytest.raises(ConfigurationError, match=message):
            start()


def test_adapters_that_the_model_does_not_support_are_refused(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "state_size": 8}
    name = str(save(tmp_path / "model", MambaForCausalLM(MambaConfig(vocab_size=len(TOKENIZER), **shape))))
    config = make_config(model={"name": name, "lora": True}, generation={"max_prompt_tokens": 400})
    for start in (lambda: describe(config), lambda: run(config, tmp_path / "node")):
        with pytest.raises(
            ConfigurationError, match=r"does not support the adapters in model\.lora: .*Mamba"
        ) as caught:
            start()
        assert caught.value.next == "swarmctl run --set model.lora=false"


def test_a_sound_model_passes_the_dry_run(tmp_path: Path) -> None:
    name = str(save(tmp_path / "model", LlamaForCausalLM(llama())))
    found = describe(Config.model_validate({"model": {"name": name, "device": "cpu"}}))
    assert found["model"]["parameters"] > 0
    assert 0 < found["memory_usual_bytes"] < found["memory_bytes"]
