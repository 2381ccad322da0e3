"""Evaluations: verified, continued after a stop, and never paid twice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.spending import spent_so_far, tokens_so_far
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopRequested
from hivemind_exp.trained import evaluation
from hivemind_exp.trained.evaluation import evaluate
from hivemind_exp.trained.loading import Job
from tests.hivemind_exp.trained.conftest import Trained
from tests.support.fake_api.server import ApiServer, api_server
from tests.support.links import RecordedLink
from tests.support.spelling_task import Spelling

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def tasks(job: Job) -> Iterator[tuple[Spelling, int]]:
        yield Spelling(), job.order["questions"]

    monkeypatch.setattr(evaluation, "_tasks", tasks)


def order(results: Path, **more: Any) -> dict[str, Any]:
    return {"asked": None, "questions": 20, "samples": 1, "greedy": True, "results": str(results)} | more


def asked(link: RecordedLink) -> list[tuple[str, list[str]]]:
    return [(event["digest"], [answer["text"] for answer in event["answers"]]) for event in link.of("result")]


def test_an_evaluation_continues_where_it_stopped_and_loads_no_model_once_it_is_done(
    full: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RecordedLink()
    (tmp_path / "whole").mkdir()
    evaluate(full.job(order(tmp_path / "whole"), whole))
    assert [len(answers) for _, answers in asked(whole)] == [1] * 20
    (tmp_path / "parts").mkdir()
    first, keep = RecordedLink(), evaluation._groups

    def stop_after_a_chunk(*arguments: Any) -> Any:
        first.stop.set()
        return keep(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "_groups", stop_after_a_chunk)
        with pytest.raises(StopRequested):
            evaluate(full.job(order(tmp_path / "parts"), first))
    assert asked(first) == asked(whole)[: evaluation.CHUNK]
    generated: list[int] = []
    with monkeypatch.context() as patch:
        generate = LocalSource.generate

        def counted(source: LocalSource, prompts: Any, count: int, **more: Any) -> Any:
            generated.append(len(prompts))
            return generate(source, prompts, count, **more)

        patch.setattr(LocalSource, "generate", counted)
        second = RecordedLink()
        evaluate(full.job(order(tmp_path / "parts"), second))
    assert sum(generated) == 20 - evaluation.CHUNK
    assert asked(second) == asked(whole)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "loaded_model", None)
        third = RecordedLink()
        evaluate(full.job(order(tmp_path / "parts"), third))
    assert asked(third) == asked(whole)


def test_sampled_answers_are_extended_when_more_are_wanted(full: Trained, tmp_path: Path) -> None:
    texts = []
    for samples in (2, 3):
        link = RecordedLink()
        evaluate(full.job(order(tmp_path, questions=3, samples=samples, greedy=False), link))
        texts.append([answers for _, answers in asked(link)])
    assert [len(answers) for answers in texts[1]] == [3, 3, 3]
    assert [answers[:2] for answers in texts[1]] == texts[0]


def api_config(server: ApiServer, usd: float = 1.0) -> Config:
    return Config.model_validate(
        {
            "node": {"name": "eval"},
            "tasks": ["spell_backward"],
            "offload": {
                **{"provider": "box", "kind": "relay", "fallback": [], "max_tokens": 32, "limits": {"usd": usd}},
                "prices": {"box": {"input": 2, "output": 8}},
            },
            "providers": {"box": {"base_url": server.base_url, "model": "test-model"}},
        }
    )


def spell(messages: Any, _index: int) -> str:
    return f"<answer>{re.sub('.*: ', '', messages[-1]['content'])[::-1]}</answer>"


def test_an_api_is_asked_once_and_its_answers_cost_what_the_ledger_says(tmp_path: Path, full: Trained) -> None:
    with api_server(answer=spell) as server:
        costs = []
        for questions in (5, 5, 8):
            link = RecordedLink()
            job = full.job(order(tmp_path, questions=questions, samples=2), link)
            evaluate(replace(job, config=api_config(server), checkpoint=None))
            results = link.of("result")
            assert [answer["correct"] for event in results for answer in event["answers"]] == [True] * 2 * questions
            costs.append((len(server.ledger.chats), spent_so_far(NodeFiles(tmp_path))))
    assert costs[0] == costs[1]
    assert costs[1][0] < costs[2][0]
    assert 0 < costs[1][1] < costs[2][1]
    used = tokens_so_far(NodeFiles(tmp_path))
    assert used is not None
    assert used[0] > used[1] > 0
    assert tokens_so_far(NodeFiles(tmp_path / "nothing")) is None
