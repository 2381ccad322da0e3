"""A node that is killed at any moment leaves its server in a state that the next node can go on with, or names."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.offload.api.engines import INFERENCE_ENGINES
from hivemind_exp.offload.api.sglang import TURNING
from hivemind_exp.offload.settings import first_endpoint
from hivemind_exp.source_kinds import Kind
from tests.support.policy_server import PolicyServer, policy_server
from tests.support.policy_server_nodes import STAND_INS, Node, configure, rows
from tests.support.waiting import until

pytestmark = pytest.mark.slow
TURNS: dict[str, Any] = {"serving": {"turns": "on"}}
each_engine = pytest.mark.parametrize("engine", STAND_INS)


def _act(engine: str, directory: Path, url: str, act: str) -> None:
    """Do in a process of its own what a node does."""

    async def run() -> None:
        endpoint = first_endpoint(configure(directory, [url]))
        server = INFERENCE_ENGINES[engine](endpoint, 60.0)
        await (server.reload("swarmctl-x", str(directory)) if act == "reload" else getattr(server, act)())
        await server.close()

    asyncio.run(run())


def killed_at_each_answer(
    engine: str, directory: Path, act: str, **state: Any
) -> Iterator[tuple[PolicyServer, str, str]]:
    """Kill what acts once its first request has had its effect, then once its second has, and so on.

    Yields the server after each, its address, and the path of the last request.
    """
    for moment in itertools.count():
        with policy_server(directory, STAND_INS[engine], **state) as (server, url):
            process = get_context("fork").Process(target=_act, args=(engine, directory, url, act))
            answers: list[str] = []

            def answering(path: str, process: Any = process, answers: list[str] = answers, last: int = moment) -> None:
                answers.append(path)
                if len(answers) == last + 1:
                    os.kill(process.pid, signal.SIGKILL)

            server.answering = answering
            process.start()
            process.join()
            server.answering = None
            if process.exitcode != -signal.SIGKILL:
                assert (process.exitcode, moment) > (-1, 2)
                return
            yield server, url, answers[-1]


def plays(node: Node) -> set[tuple[Kind, int | None]]:
    node.step()
    return {(row.kind, row.lag) for row in rows(node.play(0))}


@each_engine
@pytest.mark.parametrize("act", ["sleep", "wake"])
def test_a_node_killed_while_its_server_falls_asleep_or_wakes_up(
    make_node: Callable[..., Node], directory: Path, engine: str, act: str
) -> None:
    state: dict[str, Any] = {"asleep": act == "wake"}
    if engine == "sglang" and act == "wake":
        state["version"] = "swarmctl-asleep:default"
    unknown = set()
    for server, url, path in killed_at_each_answer(engine, directory, act, **state):
        asleep = server.asleep
        node = make_node(offload=TURNS, url=url)
        if server.version.startswith(TURNING):
            unknown.add((path, asleep))
            assert (server.asleep, plays(node)) == (asleep, set()), "it is left alone"
            (told,) = node.told("policy_awake")
            assert "so nobody knows whether it sleeps. Restart the server" in told
            (told,) = node.told("provider_down")
            assert "it is not woken up (a node was killed while this server fell asleep or woke up" in told
            server.version, server.asleep = "default", False  # it was restarted
            node.source._down_until = None
            assert {(row.kind, row.lag) for row in rows(node.play(1))} == {(Kind.POLICY, 0)}
        else:
            assert plays(node) == {(Kind.POLICY, 0)}
        node.source.close()
        assert (server.down, server.while_asleep, server.asleep) == (False, [], True)
    paths = {"sleep": "/release_memory_occupation", "wake": "/resume_memory_occupation"}
    marked = ("/update_weight_version", act == "wake")
    assert unknown == (set() if engine == "vllm" else {marked, (paths[act], act == "sleep")})


@each_engine
def test_a_node_killed_while_its_server_reloads_all_weights(
    make_node: Callable[..., Node], directory: Path, engine: str
) -> None:
    paused = []
    for server, url, _ in killed_at_each_answer(engine, directory, "reload"):
        paused.append(server.paused)
        node = make_node(whole=True, url=url)
        assert plays(node) == {(Kind.POLICY, 0)}
        assert (server.down, server.paused, server.straddled) == (False, False, [])
        node.source.close()
    assert any(paused) == (engine == "vllm")


@pytest.mark.parametrize("engine", ["sglang"])
def test_a_node_that_stops_waits_until_its_server_is_awake(make_node: Callable[..., Node]) -> None:
    node = make_node(offload=TURNS, hangs=threading.Event())
    (server,) = node.servers
    assert server.hangs is not None
    replicas, ends = node.source._replicas, threading.Event()
    end = replicas._end

    async def ending() -> None:
        ends.set()
        await end()

    replicas._end = ending  # type: ignore[method-assign]
    replicas.wake()
    until(lambda: server.version.startswith(TURNING))
    closing = threading.Thread(target=node.source.close)
    closing.start()
    ends.wait()
    server.hangs.set()
    closing.join()
    assert (server.version, server.asleep) == ("default", False)


@pytest.mark.parametrize("engine", ["sglang"])
def test_an_sglang_that_wakes_up_too_late_is_not_woken_again(
    make_node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end."""
    monkeypatch.setattr("hivemind_exp.sources.policy_server.REST_S", 0.0)
    node = make_node(offload={**TURNS, "limits": {"timeout": 0.5}}, hangs=threading.Event())
    (server,) = node.servers
    assert server.hangs is not None
    assert plays(node) == set()
    server.hangs.set()
    until(lambda: not server.asleep)
    assert {(row.kind, row.lag) for row in rows(node.play(1))} == {(Kind.POLICY, 0)}
    assert (server.down, server.while_asleep, server.turns.count("wake_up")) == (False, [], 1)
