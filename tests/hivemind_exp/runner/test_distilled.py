"""A node whose completions a teacher scores: what it pays, keeps and learns from."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.errors import LimitReached, ProviderError
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.node_charter import node_charter
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.secrets import Secrets
from tests.support.fake_api.ask import Ask
from tests.support.fake_api.scoring import score_of
from tests.support.fake_api.server import ApiServer, api_server
from tests.support.nodes import make_config
from tests.support.recorded_events import Events
from tests.support.spelling_task import Spelling
from tests.support.tiny_models import vocabulary

pytestmark = pytest.mark.slow
GROUPS, SIZE = 2, 4
PRICE = {"input": 1.0, "output": 2.0}
VOCABULARY = vocabulary()


def configure(base_url: str, rounds: int = 1, usd: float = 1.0, **offload: Any) -> Any:
    return make_config(
        game={"rounds": rounds, "groups": GROUPS, "group_size": SIZE},
        offload={"provider": "box", "teach": "distillation", "limits": {"usd": usd}, "prices": {"box": PRICE}}
        | offload,
        providers={"box": {"base_url": base_url, "model": "test-model"}},
        eval={"questions": 2},
        checkpoint={"every": 1, "keep": 9},  # so that all manifests but the first are kept
    )


def play(root: Path, config: Any) -> Events:
    root.mkdir(exist_ok=True)
    events = Events()
    GRPORunner(config, NodeFiles(root), events, secrets=Secrets(), make_tasks=lambda *_: Spelling()).run()
    return events


def test_scores_are_paid_once_and_learned_from(tmp_path: Path) -> None:
    with api_server(vocabulary=VOCABULARY) as server:
        first = play(tmp_path, configure(server.base_url, 1))
        second = play(tmp_path, configure(server.base_url, 2))
        asked, bill = server.ledger.scores, server.usd(PRICE["input"], PRICE["output"])
        assert not server.ledger.chats
    scored = [*first.of("scores"), *second.of("scores")]
    assert [(event["round"], event["scored"], event["unscored"]) for event in scored] == [(0, 8, 0), (1, 8, 0)]
    rounds = [entry.digest for entry in asked if entry.prompt_tokens < 60]
    assert len(set(rounds)) == len(rounds) <= 2 * GROUPS * SIZE
    (step,) = first.of("step")
    # An untrained model spells nothing right, so it learns from the teacher alone.
    assert (step["source"], step["rows"], step["grad_norm"] > 0) == ("policy", GROUPS * SIZE, True)
    assert step["reverse_kl"] != 0
    assert second.of("spend")[-1]["usd_total"] == pytest.approx(bill, abs=1e-8)
    config = configure("http://127.0.0.1:9/v1")
    with closing(Journal(NodeFiles(tmp_path).journal, node_charter(config, NodeFiles(tmp_path)))) as journal:
        rows = [row for manifest in journal.manifests(1) for row in manifest.rows]
    assert {row.teacher for row in rows} == {"box:test-model"}
    for row in rows:
        ids = [*row.prompt_ids, *row.completion_ids]
        expected = [score_of(ids, place) for place in range(len(row.prompt_ids), len(ids))]
        assert row.teacher_logps == pytest.approx(expected)
    with closing(sqlite3.connect(NodeFiles(tmp_path).ledger)) as db:
        stages = {stage for (stage,) in db.execute("SELECT DISTINCT stage FROM requests")}
    assert stages == {"score"}


def test_scoring_stops_at_the_nodes_cap(tmp_path: Path) -> None:
    with api_server(vocabulary=VOCABULARY) as server:
        with pytest.raises(LimitReached, match="spending cap reached"):
            play(tmp_path, configure(server.base_url, 50, usd=0.002))
        assert server.usd(PRICE["input"], PRICE["output"]) <= 0.002


def test_without_the_teacher_the_node_learns_from_its_rewards(tmp_path: Path) -> None:
    with api_server(vocabulary=VOCABULARY) as server:
        url = server.base_url
        with server.down():
            events = play(tmp_path, configure(url, 1))
    assert [event["code"] for event in events.of("warning")] == ["provider_down"]
    assert not events.of("scores")
    assert "reverse_kl" not in events.of("step")[0]


def _other_words(_ask: Ask, body: dict[str, Any]) -> dict[str, Any]:
    table = body["choices"][0]["logprobs"]
    table["tokens"] = ["x" if text == "5" else text for text in table["tokens"]]
    return body


class _Unsteady:
    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, _ask: Ask, body: dict[str, Any]) -> dict[str, Any]:
        self.seen += 1
        table = body["choices"][0]["logprobs"]
        table["token_logprobs"] = [value and value - 0.2 * self.seen for value in table["token_logprobs"]]
        return body


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"vocabulary": None}, r"it rejects a test request \(HTTP 404"),
        ({"rejects": ["echo"]}, r"it rejects a test request \(HTTP 400: .*echo"),
        ({"vocabulary": VOCABULARY, "amend": _other_words}, "it uses another tokenizer: token"),
        (
            {"vocabulary": VOCABULARY, "amend": _Unsteady()},
            "scored the same text twice, and the log-probabilities differ",
        ),
    ],
)
def test_a_teacher_that_cannot_score_is_refused_before_training(
    tmp_path: Path, options: dict[str, Any], why: str
) -> None:
    options = {"vocabulary": VOCABULARY} | options
    with api_server(**options) as server, pytest.raises(ProviderError, match=why) as caught:
        play(tmp_path, configure(server.base_url))
    assert caught.value.next == "swarmctl run --set offload.teach=answers"
    assert "cannot be this node's teacher" in caught.value.message
    assert not NodeFiles(tmp_path).checkpoints.exists()


def _spoil(server: ApiServer, value: Any) -> None:
    """Spoil every answer after the test."""

    def amend(ask: Ask, body: dict[str, Any]) -> dict[str, Any]:
        if len(ask.body["prompt"]) < 60:
            table = body["choices"][0]["logprobs"]
            table["token_logprobs"][-2] = value
        return body

    server.set(amend=amend)


def test_scores_that_are_no_log_probabilities_leave_their_rows_out(tmp_path: Path) -> None:
    with api_server(vocabulary=VOCABULARY) as server:
        _spoil(server, float("nan"))
        events = play(tmp_path, configure(server.base_url, 6))
        asked = [entry for entry in server.ledger.scores if entry.prompt_tokens < 60]
    told = [event for event in events.of("warning") if event["code"] in ("unusable_scores", "taught_nothing")]
    assert [event["code"] for event in told] == ["unusable_scores", "taught_nothing"]
    assert "of round 1" in told[1]["message"]
    assert all("offload.teach=answers" in event["message"] for event in told)
    *_, down = [event for event in events.of("warning") if event["code"] == "provider_down"]
    assert "falling back to this machine for the rest of this run" in down["message"]
    # It is asked for three rounds, once per completion, and no more.
    assert len({entry.digest for entry in asked}) == len(asked) <= 3 * GROUPS * SIZE
    assert all("reverse_kl" not in event for event in events.of("step"))
