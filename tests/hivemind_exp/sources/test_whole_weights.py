"""A node that trains all its weights, and pushes them to a server: against stand-ins with a real tiny model."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hivemind_exp.errors import ProviderError
from hivemind_exp.offload.api.vllm import VllmServer
from hivemind_exp.offload.settings import first_endpoint
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.adapter_versions import NEWEST
from hivemind_exp.sources.weight_versions import WeightVersions
from tests.support.policy_server import policy_server
from tests.support.policy_server_nodes import STAND_INS, Node, configure, rows
from tests.support.waiting import until

pytestmark = pytest.mark.slow
each_engine = pytest.mark.parametrize("engine", STAND_INS)


def lags(node: Node, round_: int) -> set[tuple[Kind, int | None]]:
    found = rows(node.play(round_))
    assert len(found) == 12
    return {(row.kind, row.lag) for row in found}


@each_engine
def test_the_lag_is_exact_and_no_request_straddles_a_reload(make_node: Any) -> None:
    node = make_node(whole=True, temperature=0.7)
    (server,) = node.servers
    node.step()
    node.source.request(node.ask(0))
    until(lambda: server.turns.count("complete") == 3)
    server.holds = threading.Event()
    node.source.request(node.ask(1))
    until(lambda: server.in_flight == 3)
    node.step()
    node.source.request(node.ask(2))  # pushes the new weights, once the requests of round 1 are answered
    assert server.reloaded == server.reloaded[:1]
    server.holds.set()
    server.holds = None
    for round_, lag in ((0, 1), (1, 1), (2, 0)):
        found = rows(node.play(round_))
        assert {(row.kind, row.lag) for row in found} == {(Kind.POLICY, lag)}
        serial = node.source._adapters.serials[0] if lag else NEWEST
        (own,) = node.source._adapters.logps(serial, [(node.prompts[0].ids, found[0].ids)], 0.7)
        assert own == pytest.approx(found[0].behaviour_logps, abs=1e-4)
    assert (len(server.reloaded), server.straddled) == (2, [])
    assert [each for each in server.turns if each in ("load", "reload")] == ["reload", "reload"]


@each_engine
def test_only_the_newest_checkpoint_is_kept_and_none_is_left_behind(make_node: Any, tmp_path: Path) -> None:
    node = make_node(whole=True)
    for round_ in range(3):
        node.step()
        assert lags(node, round_) == {(Kind.POLICY, 0)}
        (kept,) = (tmp_path / "served").iterdir()
        assert kept.name == node.servers[0].reloaded[-1]
        saved = AutoModelForCausalLM.from_pretrained(kept).state_dict()
        assert all(torch.equal(each, saved[name]) for name, each in node.model.state_dict().items())
    node.source.close()
    assert list((tmp_path / "served").iterdir()) == []


@each_engine
def test_a_push_reaches_all_replicas_or_none(make_node: Any) -> None:
    node = make_node(whole=True, urls=2)
    node.step()
    assert lags(node, 0) == {(Kind.POLICY, 0)}
    node.servers[1].broken_loads = 1  # it has read a part, and its weights are none that was pushed
    node.step()
    assert lags(node, 1) == {(Kind.POLICY, 1)}
    versions = {server.version for server in node.servers}
    assert len(versions) == 1, "both have the weights before again"
    ((message),) = node.told("policy_push")
    assert "could not read the weights" in message
    node.step()
    assert lags(node, 2) == {(Kind.POLICY, 0)}


@each_engine
def test_a_server_restarted_between_push_and_request_gets_the_same_weights_again(make_node: Any) -> None:
    node = make_node(whole=True)
    node.step()
    node.play(0)
    node.step()
    node.servers[0].forgets = True
    assert lags(node, 1) == {(Kind.POLICY, 0)}
    assert node.told("policy_other") == node.told("provider_down") == []
    (server,) = node.servers
    assert len(server.reloaded) == 3, "once for all the requests that missed it"
    assert server.reloaded[-1] == server.reloaded[-2] == server.version


@pytest.mark.parametrize(
    ("engine", "fault", "words"),
    [
        ("vllm", {"ignores": True}, "as if nothing had been pushed"),
        ("vllm", {"behind": True}, "answers with the weights of an earlier push"),
        ("vllm", {"processed": False}, "--logprobs-mode processed_logprobs"),
        ("sglang", {"ignores": True}, "as if nothing had been pushed"),
        ("sglang", {"behind": True}, "answers with the weights of an earlier push"),
        ("sglang", {"processed": False}, "SGLANG_RETURN_ORIGINAL_LOGPROB"),
    ],
)
def test_what_the_server_gets_wrong_is_named(make_node: Any, fault: dict[str, Any], words: str) -> None:
    node = make_node(whole=True, temperature=0.6, **({} if "behind" in fault else fault))
    for round_ in range(2):
        node.step()
        if "behind" in fault and round_ == 1:
            node.servers[0].behind = True
        found = rows(node.play(round_))
    assert {(row.kind, row.lag, row.behaviour_logps) for row in found} == {(Kind.POLICY_TEXT, None, None)}
    (message,) = node.told("policy_other")
    assert words in message
    assert "--enable-lora" not in message


def test_a_server_without_the_interface_ends_the_run_with_the_flag_it_lacks(make_node: Any) -> None:
    node = make_node(whole=True, reloads=False, sleeps=False)
    node.step()
    with pytest.raises(ProviderError, match="VLLM_SERVER_DEV_MODE=1") as caught:
        node.play(0)
    assert caught.value.next == "swarmctl doctor api"


@each_engine
def test_a_server_that_cannot_name_its_weights_ends_the_run(make_node: Any) -> None:
    node = make_node(whole=True, outdated=True)
    node.step()
    with pytest.raises(ProviderError, match="Update it: swarmctl is tested with"):
        node.play(0)
    assert len(node.servers[0].asked) <= 3, "nothing is asked again"


@pytest.mark.parametrize("engine", STAND_INS)
def test_a_directory_that_the_server_does_not_see_ends_the_run(make_node: Any) -> None:
    node = make_node(whole=True, mounts={"/": Path("/nowhere")})
    node.step()
    with pytest.raises(ProviderError, match=r"offload\.serving\.folder"):
        node.play(0)


@each_engine
def test_turns_are_taken_with_whole_weights(make_node: Any) -> None:
    node = make_node(whole=True, offload={"serving": {"turns": "on"}})
    (server,) = node.servers
    for round_ in range(2):
        node.step()
        assert lags(node, round_) == {(Kind.POLICY, 0)}
    assert server.turns == ["sleep", *2 * ["wake_up", "reload", *3 * ["complete"], "sleep"]]
    assert lags(node, 2) == {(Kind.POLICY, 0)}
    assert len(server.reloaded) == 2, "it kept its weights while it slept"


def test_tied_weights_are_copied_once_and_saved_under_both_names(tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=20, tie_word_embeddings=True, **shape))
    versions = WeightVersions(model, 2, lambda: model)
    weights = versions.remember(0)
    assert sum(each.numel() for each in weights.values()) == sum(each.numel() for each in model.parameters())
    before = model.lm_head.weight.detach().clone()
    with torch.no_grad():
        model.lm_head.weight += 1
    versions.write(weights, tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(saved.lm_head.weight, before), "what is written are the weights of the push"
    assert saved.lm_head.weight is saved.model.embed_tokens.weight


def test_a_reload_that_is_cut_short_while_vllm_pauses_lets_it_go_on(directory: Path) -> None:
    """A request that nobody waits for any more is cancelled, also while it has the weights loaded again."""
    paused, go_on = threading.Event(), threading.Event()

    def hold(path: str) -> None:
        if path.startswith("/pause"):
            paused.set()
            go_on.wait()

    async def cut_short(url: str) -> None:
        vllm = VllmServer(first_endpoint(configure(directory, [url])), 60.0)
        reload = asyncio.ensure_future(vllm.reload("swarmctl-x", str(directory)))
        await asyncio.to_thread(paused.wait)
        reload.cancel()
        await asyncio.wait([reload])
        assert reload.cancelled()
        await vllm.close()

    with policy_server(directory) as (server, url):
        server.answering = hold
        asyncio.run(cut_short(url))
        go_on.set()
        assert not server.paused
