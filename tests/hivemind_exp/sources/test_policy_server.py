"""A server of this node's weights: pushes, checks and faults, against stand-ins with a real tiny model."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from hivemind_exp.errors import ProviderError
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.adapter_versions import BASE, NEWEST
from hivemind_exp.sources.policy_server import PolicyServerSource
from hivemind_exp.sources.pushed_weights import remembered
from hivemind_exp.sources.schedule import AHEAD, AHEAD_OF_WHOLE_WEIGHTS
from tests.support.policy_server_nodes import STAND_INS, rows
from tests.support.tiny_models import save_llama
from tests.support.waiting import until

each_engine = pytest.mark.parametrize("engine", STAND_INS)


@pytest.mark.slow
@each_engine
def test_rows_carry_exact_lag_ids_and_log_probabilities_of_the_weights_that_sampled_them(
    make_node: Any, engine: str
) -> None:
    node = make_node(temperature=0.7)
    node.step()
    node.source.request(node.ask(0))
    node.step()
    node.source.request(node.ask(1))
    node.step()
    for round_, lag in ((0, 2), (1, 1), (2, 0)):
        found = rows(node.play(round_))
        assert len(found) == 12
        assert {(row.kind, row.source, row.lag) for row in found} == {(Kind.POLICY, "box", lag)}
        assert all(row.truncated == (row.ids[-1] not in (1, 5)) for row in found)
        serial = node.source._adapters.serials[round_] if round_ < 2 else NEWEST
        (own,) = node.source._adapters.logps(serial, [(node.prompts[0].ids, found[0].ids)], 0.7)
        assert own == pytest.approx(found[0].behaviour_logps, abs=1e-4)
    asked = node.servers[0].asked[0]
    assert {name: asked[name] for name in ("top_p", "top_k", "min_p", "repetition_penalty")} == {
        "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
    }  # fmt: skip
    assert (asked["presence_penalty"], asked["frequency_penalty"], asked["stop_token_ids"]) == (0.0, 0.0, [1, 5])
    seeds = [seed for each in node.servers[0].asked for seed in each.get("seeds", [each.get("seed")])]
    assert len(set(seeds)) == len(seeds) == (9 if engine == "vllm" else 36), "SGLang's are of each completion"
    assert len(node.told("policy_served")) == 1


@pytest.mark.slow
@each_engine
def test_old_adapters_are_unloaded_and_nothing_is_left_behind(make_node: Any, tmp_path: Path) -> None:
    node = make_node()
    for round_ in range(5):
        node.step()
        node.play(round_)
    (server,) = node.servers
    assert len(server.loads) == 5
    assert len(server.adapters) == AHEAD + 1
    assert len(list((tmp_path / "served").iterdir())) == AHEAD + 1
    node.source.close()
    assert server.adapters == []
    assert list((tmp_path / "served").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_answers_requested_before_the_pushes_of_later_stages_are_used(make_node: Any, whole: bool) -> None:
    """Each stage of a study group is a step, so that a round ahead is three pushes ahead if all stages are served."""
    node = make_node(whole=whole)
    (server,) = node.servers
    node.step()
    node.source.request(node.ask(0))
    for round_, lag in ((0, 0), (1, 3), (2, 3)):
        node.source.request(node.ask(round_ + 1))
        found = rows(node.play(round_))
        assert {(row.kind, row.lag) for row in found} == {(Kind.POLICY, lag)}
        assert len(found) == 12
        for stage in ("critique", "resolve"):
            node.step()
            assert {row.lag for row in rows(node.play(round_, stage))} == {0}
        most = remembered(AHEAD_OF_WHOLE_WEIGHTS if whole else AHEAD)
        assert len(node.source._adapters.serials) <= most, "as many copies as the documents say"
        node.step()
    assert len(server.asked) == (4 + 2 * 3) * 3
    assert node.told("policy_other") == []


@pytest.mark.slow
def test_a_server_keeps_the_adapter_of_a_request_in_flight_and_few_others(make_node: Any) -> None:
    node = make_node()
    (server,) = node.servers
    node.step()
    node.play(0)
    held = server.adapters[0]
    server.holds = slow = threading.Event()
    node.source.request(node.ask(9))
    until(lambda: server.in_flight == 3)
    server.holds = None
    for round_ in (1, 2, 3):
        node.step()
        node.play(round_)
        assert held in server.adapters
        assert len(server.adapters) == min(round_, AHEAD) + 1
    slow.set()
    assert {(row.kind, row.lag) for row in rows(node.play(9))} == {(Kind.POLICY, 3)}


@pytest.mark.slow
@each_engine
def test_what_a_killed_run_left_on_the_server_and_on_disk_is_removed(make_node: Any, tmp_path: Path) -> None:
    killed = make_node()
    killed.step()
    killed.play(0)
    (server,) = killed.servers
    (left,) = server.adapters
    other = f"swarmctl-{'0' * 8}-another-nodes"
    server._adapters[other] = {}
    killed.source._replicas.start = lambda _: None
    node = make_node(url=f"http://{killed.source._endpoint.host}/v1")
    assert server.adapters == [other]
    assert not (tmp_path / "served" / left).exists()
    node.step()
    assert {row.kind for row in rows(node.play(0))} == {Kind.POLICY}


@pytest.mark.slow
def test_unchanged_weights_are_not_pushed_again(make_node: Any) -> None:
    node = make_node()
    node.step()
    node.play(0)
    node.play(1)
    assert len(node.servers[0].loads) == 1
    node.source.weights_moved(node.version)  # restored weights have the version of others
    node.play(2)
    assert len(set(node.servers[0].loads)) == 2


@pytest.mark.slow
@each_engine
def test_replicas_share_the_prompts_and_each_prompt_stays_with_one(make_node: Any) -> None:
    node = make_node(urls=2)
    for round_ in range(2):
        node.step()
        assert len(rows(node.play(round_))) == 12
    prompts = [[tuple(each["prompt"]) for each in server.asked] for server in node.servers]
    assert not set(prompts[0]) & set(prompts[1])
    assert sorted(len(each) for each in prompts) == [2, 4]
    assert all(len(server.loads) == 2 for server in node.servers)


@pytest.mark.slow
def test_adapters_go_where_the_server_sees_them_under_another_path(make_node: Any, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    serving = {"folder": str(shared), "server_folder": "/adapters"}
    node = make_node(offload={"serving": serving}, mounts={"/adapters": shared})
    node.step()
    assert {row.kind for row in rows(node.play(0))} == {Kind.POLICY}
    assert [each.name for each in shared.iterdir()] == node.servers[0].loads
    assert not (tmp_path / "served").exists()


@pytest.mark.slow
@each_engine
def test_a_push_reaches_all_replicas_or_none(make_node: Any) -> None:
    node = make_node(urls=2)
    node.step()
    node.play(0)
    node.servers[1].broken_loads = 1
    node.step()
    assert {row.lag for row in rows(node.play(1))} == {1}
    assert [len(server.adapters) for server in node.servers] == [1, 1]
    ((message),) = node.told("policy_push")
    assert "could not read the adapter's weights" in message
    node.step()
    assert {row.lag for row in rows(node.play(2))} == {0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "fault", "words"),
    [
        ("vllm", {"ignores": True}, "answers with the base model"),
        ("vllm", {"behind": True}, "answers with the weights of an earlier push"),
        ("vllm", {"processed": False}, "--logprobs-mode processed_logprobs"),
        ("vllm", {"prefix": (7, 8)}, "completes different tokens"),
        ("vllm", {"coarse": 0.3}, "quantization"),
        ("sglang", {"ignores": True}, "Start it with --enable-lora --max-lora-rank"),
        ("sglang", {"behind": True}, "answers with the weights of an earlier push"),
        ("sglang", {"processed": False}, "without SGLANG_RETURN_ORIGINAL_LOGPROB"),
        ("sglang", {"prefix": (7, 8)}, "completes different tokens"),
    ],
)
def test_what_the_server_gets_wrong_is_named_and_its_rows_count_as_text(
    make_node: Any, fault: dict[str, Any], words: str
) -> None:
    node = make_node(temperature=0.6)
    node.step()
    assert {row.kind for row in rows(node.play(0))} == {Kind.POLICY}
    node.step()
    for name, value in fault.items():
        setattr(node.servers[0], name, value)
    if "coarse" in fault:
        node.servers[0]._model = None
        node.servers[0]._base = AutoModelForCausalLM.from_pretrained(node.servers[0].directory).eval()
    for round_ in (1, 2):
        found = rows(node.play(round_))
        assert {(row.kind, row.lag, row.behaviour_logps) for row in found} == {(Kind.POLICY_TEXT, None, None)}
        node.step()
    (message,) = node.told("policy_other")
    assert words in message
    assert "count as policy_text" in message


@pytest.mark.slow
def test_a_server_that_is_right_again_is_trusted_again(make_node: Any) -> None:
    node = make_node(ignores=True)
    node.step()
    assert {row.kind for row in rows(node.play(0))} == {Kind.POLICY_TEXT}
    node.servers[0].ignores = False
    node.step()
    assert {row.kind for row in rows(node.play(1))} == {Kind.POLICY}
    assert len(node.told("policy_served")) == 1


@pytest.mark.slow
@each_engine
def test_a_server_restarted_between_push_and_request_gets_the_same_weights_again(make_node: Any) -> None:
    node = make_node()
    node.step()
    node.play(0)
    node.step()
    node.servers[0].forgets = True
    assert {(row.kind, row.lag) for row in rows(node.play(1))} == {(Kind.POLICY, 0)}
    assert node.told("policy_other") == node.told("provider_down") == []


@pytest.mark.slow
@each_engine
def test_an_outage_leaves_the_slots_to_this_machine_and_ends(make_node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_exp.sources.policy_server.REST_S", 0.0)
    node = make_node()
    node.step()
    node.play(0)
    node.servers[0].down = True
    for round_ in (1, 2):
        node.step()
        assert node.play(round_) == []
    node.servers[0].down = False
    node.step()
    assert {row.lag for row in rows(node.play(3))} == {0}
    assert ["falling back to this machine until box is available" in each for each in node.told("provider_down")] == [
        True
    ]
    assert len(node.told("provider_back")) == 1
    assert node.told("policy_push") == []  # each push of the outage failed, too


@pytest.mark.slow
def test_without_a_fallback_the_node_waits(make_node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    node = make_node(offload={"fallback": []})
    node.step()
    node.servers[0].down = True
    pauses = []

    def recover(_source: PolicyServerSource) -> None:
        pauses.append(1)
        node.servers[0].down = len(pauses) < 2

    monkeypatch.setattr(PolicyServerSource, "_pause", recover)
    assert len(rows(node.play(0))) == 12
    assert len(pauses) == 2
    assert "waiting until box is available again" in node.told("provider_down")[0]


@pytest.mark.slow
def test_pushes_that_keep_failing_are_reported_once_until_one_succeeds(make_node: Any) -> None:
    node = make_node()
    node.step()
    node.play(0)
    lags = []
    for round_, broken in enumerate((1, 1, 1, 1, 1, 0, 1), start=1):
        node.servers[0].broken_loads = broken
        node.step()
        lags += {row.lag for row in rows(node.play(round_))}
    assert len(node.told("policy_push")) == 2
    assert lags == [1, 2, 3, 4, 5, 0, 1], "the weights that the server has are remembered"


@pytest.mark.parametrize(
    ("engine", "fault", "words"),
    [
        ("vllm", {"updates": False}, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"),
        ("vllm", {"enabled": False}, "--enable-lora"),
        ("vllm", {"rank": 2}, "--max-lora-rank"),
        ("vllm", {"broken_loads": 9}, "arrive there complete"),
        ("sglang", {"updates": False}, "offload.serving.engine"),
        ("sglang", {"enabled": False}, "--enable-lora --max-lora-rank RANK"),
        ("sglang", {"rank": 2}, "--max-lora-rank of at least"),
        ("sglang", {"mounts": {"/": Path("/nowhere")}}, "offload.serving.folder"),
        ("sglang", {"broken_loads": 9}, "arrive there complete"),
    ],
)
def test_a_server_that_takes_no_adapter_ends_the_run_with_the_flag_it_lacks(
    make_node: Any, fault: dict[str, Any], words: str
) -> None:
    node = make_node(**fault)
    node.step()
    with pytest.raises(ProviderError, match=words) as caught:
        node.play(0)
    assert caught.value.next == "swarmctl doctor api"


@pytest.mark.slow
@each_engine
def test_another_model_is_not_used(make_node: Any, tmp_path: Path) -> None:
    node = make_node()
    torch.manual_seed(5)
    other = AutoModelForCausalLM.from_pretrained(save_llama(tmp_path / "other"))
    with torch.no_grad():
        other.lm_head.weight *= 60
    node.servers[0]._base = other
    node.step()
    assert node.play(0) == node.play(1) == []
    (message,) = node.told("policy_other")
    assert "has another model" in message
    assert "this machine generates instead" in message


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_comparing_leaves_the_weights_and_the_mode_as_they_were(make_node: Any, whole: bool) -> None:
    node = make_node(whole=whole)
    node.step()
    node.play(0)
    node.step()
    before = {name: each.clone() for name, each in node.model.state_dict().items()}
    node.model.train()
    pair = (node.prompts[0].ids, (3, 4, 1))
    versions = node.source._adapters
    old, base, new = (versions.logps(which, [pair], 1.0)[0] for which in (versions.serials[0], BASE, NEWEST))
    assert len({tuple(each) for each in (old, base, new)}) == 3
    assert node.model.training
    assert all(torch.equal(before[name], each) for name, each in node.model.state_dict().items())
