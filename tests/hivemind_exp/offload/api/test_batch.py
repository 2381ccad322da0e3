"""The Batch API: lines, results and status, and finding a batch in a service's listing."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_exp.config import Config, LimitsConfig, PriceConfig
from hivemind_exp.errors import LimitReached
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.api import batch as batches
from hivemind_exp.offload.api.batch import (
    BatchClient,
    Line,
    Report,
    Request,
    parcels,
    read_report,
    read_results,
    unanswered,
)
from hivemind_exp.offload.api.chat import ChatAnswer, ChatClient
from hivemind_exp.offload.api.faults import FaultKind, RequestFailed
from hivemind_exp.offload.batch.job import BatchStore
from hivemind_exp.offload.ledger import Ledger
from hivemind_exp.offload.prices import Usage, price_of
from hivemind_exp.offload.process.client import open_offload
from hivemind_exp.offload.settings import first_endpoint
from hivemind_exp.secrets import Secrets
from hivemind_exp.sources.schedule import rounds_ahead
from hivemind_exp.stop import StopFlag
from tests.support.engine_rig import endpoint
from tests.support.fake_api.server import api_server
from tests.support.nodes import Events

BODY = {
    "choices": [{"message": {"content": "42"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}


def result(name: str, status: int = 200, body: Any = BODY) -> bytes:
    response = {"status_code": status, "request_id": "r", "body": body}
    return json.dumps({"id": "x", "custom_id": name, "response": response, "error": None}).encode() + b"\n"


def test_lines_of_a_group_have_different_names() -> None:
    lines = [Line(3, "answer", "abc", places, 0) for places in ((0, 1), (2,), (3, 5))]
    assert [line.name for line in lines] == ["3/answer/abc/0x2", "3/answer/abc/2x1", "3/answer/abc/3x2"]


def test_results_are_answers_or_failures_by_name() -> None:
    undone = json.dumps(
        {"custom_id": "d", "response": None, "error": {"code": "batch_expired", "message": "Too late."}}
    )
    found, spoilt = read_results(
        result("a")
        + result("b", 429, {"error": {"message": "slow"}})
        + result("c", 200, {"no": "choices"})
        + undone.encode()
    )
    assert spoilt == 0
    answer = found["a"]
    assert isinstance(answer, ChatAnswer)
    assert [choice.text for choice in answer.choices] == ["42"]
    faults = [fault for fault in found.values() if isinstance(fault, RequestFailed)]
    assert [(fault.trouble, fault.billed) for fault in faults] == [
        (FaultKind.SLOW_DOWN, False),
        (FaultKind.BROKEN, True),
        (FaultKind.BUSY, False),
    ]
    assert faults[2].detail == 'not answered: "Too late."'


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"7", b'{"custom_id": 7}', b"<html>", b'{"response": {}}', b"\xff\xfe", b"[" * 100_000]
)
def test_unreadable_line_is_counted_and_others_are_kept(line: bytes) -> None:
    found, spoilt = read_results(result("a") + line + b"\n" + result("b"))
    assert (list(found), spoilt) == (["a", "b"], 1)


def test_unencodable_text_is_replaced() -> None:
    body = BODY | {"model": "m\ud800", "choices": [{"message": {"content": "4\udfff"}}]}
    undone = {"custom_id": "b", "response": None, "error": {"message": "\ud800"}}
    refused = result("c", 400, {"error": {"message": "\ud800"}})
    found, _ = read_results(result("a", body=body) + json.dumps(undone).encode() + b"\n" + refused)
    answer, *faults = found.values()
    assert isinstance(answer, ChatAnswer)
    said = [
        answer.model or "",
        answer.choices[0].text,
        *(fault.detail for fault in faults if isinstance(fault, RequestFailed)),
    ]
    assert [text.encode() for text in said] == [b"m?", b"4?", b'not answered: "\\ud800"', b'HTTP 400: "\\ud800"']


def test_a_line_that_failed_may_be_billed_but_is_no_answer() -> None:
    report = read_report({"id": "b", "status": "completed", "request_counts": {"total": 3, "completed": 2}})
    results, _ = read_results(result("a") + result("b", 500))
    failed = results["b"]
    assert isinstance(failed, RequestFailed)
    assert failed.billed
    assert unanswered(report, results.values()).billed, "one of two answers is missing"


def test_first_of_two_lines_for_one_request_wins() -> None:
    found, _ = read_results(result("a", 500) + result("a"))
    assert isinstance(found["a"], RequestFailed)


NAMES = (
    *("id", "status", "custom_id", "response", "status_code", "body", "error", "errors", "data", "code", "message"),
    *("request_counts", "completed", "total", "output_file_id"),
)
DOCUMENTS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.sampled_from(NAMES), each),
)


@pytest.mark.slow
@given(DOCUMENTS)
def test_arbitrary_batch_answers_raise_only_request_failed(document: Any) -> None:
    read_results(json.dumps(document).encode())
    read_results(json.dumps({"custom_id": "a", "response": document, "error": document}).encode())
    for table in (document, {"id": "a", "status": "failed", "errors": document, "request_counts": document}):
        try:
            read_report(table)
        except RequestFailed as fault:
            assert fault.trouble is FaultKind.BROKEN  # noqa: PT017 - any other exception fails the test


@pytest.mark.parametrize(
    ("status", "counts", "answered", "billed"),
    [
        ("completed", {"total": 2, "completed": 2}, 1, True),
        ("completed", {"total": 2, "completed": 1}, 1, False),
        ("completed", {"total": 0, "completed": 0}, 1, True),
        ("expired", {"total": 2, "completed": 1}, 1, False),
        ("cancelled", {"total": 0, "completed": 0}, 0, False),
        ("cancelled", None, 0, True),
    ],
)
def test_requests_without_a_result_are_unbilled_only_if_the_counts_say_so(
    status: str, counts: Any, answered: int, billed: bool
) -> None:
    report = read_report({"id": "b", "status": status, "request_counts": counts})
    results, _ = read_results(b"".join(result(str(number)) for number in range(answered)))
    assert unanswered(report, results.values()).billed is billed


@pytest.mark.parametrize(
    ("code", "message", "trouble"),
    [
        ("token_limit_exceeded", "Enqueued token limit reached", FaultKind.SLOW_DOWN),
        ("billing_hard_limit_reached", "Billing hard limit has been reached", FaultKind.NO_CREDIT),
        ("model_not_found", "The model does not exist", FaultKind.BAD_REQUEST),
        ("invalid_json_line", "This line is not parseable", FaultKind.BAD_REQUEST),
        ("server_error", "The batch failed.", FaultKind.BUSY),
        (None, None, FaultKind.BUSY),
    ],
)
def test_reason_of_a_failed_batch_is_classified(code: Any, message: Any, trouble: FaultKind) -> None:
    errors = {"object": "list", "data": [{"code": code, "message": message}]}
    failure = read_report({"id": "b", "status": "failed", "errors": errors}).failure
    assert failure is not None
    assert (failure.trouble, failure.billed) == (trouble, False)
    assert failure.detail == (f'"{message}"' if message else "no reason given")


def test_batches_stay_within_the_service_s_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_MOST_LINES", 3)
    monkeypatch.setattr(batches, "_MOST_BYTES", 100)
    line = Line(0, "answer", "abc", (0,), 0)
    sizes = [10, 10, 10, 10, 90, 200, 5]
    cut = parcels(Request(line, b"", 0.0, size) for size in sizes)
    assert [[request.size for request in parcel] for parcel in cut] == [[10, 10, 10], [10, 90], [200], [5]]


def test_batch_is_found_beyond_the_first_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_PAGE", 2)

    async def search(base_url: str) -> list[Report | None]:
        chat = ChatClient(endpoint(base_url), None, seconds=5)
        client = BatchClient(chat, seconds=5)
        files = [await client.upload(b"{}", "lines.jsonl") for _ in range(7)]
        for number, file in enumerate(files):
            await client.create(file, f"tag {number}")
        now = time.time()
        found = [
            await client.find("tag 0", "", now),
            await client.find("", files[3], now),
            await client.find("none", "", now),
            await client.find("tag 0", "", now + 2 * 86400),
        ]
        await chat.close()
        return found

    with api_server(batch_delay=None) as server:
        found = asyncio.run(search(server.base_url))
    assert [report and report.id for report in found] == ["batch_0", "batch_3", None, None]


def test_batch_is_recorded_entirely_or_not_at_all(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", LimitsConfig(usd=1.0, usd_per_day=1.0))
    book = BatchStore(ledger, "box", "test-model")
    lines = [(Line(0, "answer", "abc", (place,), 0), 0.3) for place in range(4)]
    with pytest.raises(LimitReached, match=r"the next batch may cost up to 1\.20 USD"):
        book.open(lines)
    assert (ledger.spent, book.pending()) == (0.0, [])
    with pytest.raises(TypeError):
        book.open([lines[0], (Line(0, "answer", "abc", (1, object()), 0), 0.3)])  # type: ignore[arg-type]
    assert (ledger.spent, book.pending()) == (0.0, [])
    ledger.check(1.0)
    book.open(lines[:3])
    with pytest.raises(LimitReached, match="usd_per_day"):
        Ledger(tmp_path / "ledger.sqlite", LimitsConfig(usd=5.0, usd_per_day=1.0)).check(0.2)
    ledger.close()


def test_batch_costs_half_of_the_listed_price() -> None:
    listed = price_of(first_endpoint(Config.model_validate({"offload": {"provider": "openai:gpt-4o-mini"}})), {})
    assert listed is not None
    usage = Usage(prompt=1_000_000, completion=1_000_000, cached=500_000)
    assert listed.cost_in_batch(usage) == pytest.approx((0.15 + 0.60) / 2)
    assert listed.cost(usage) < 0.75


def test_batches_are_requested_further_ahead_by_default() -> None:
    ahead = [{}, {"batch": True}, {"batch": True, "ahead": 3}]
    assert [rounds_ahead(Config.model_validate({"offload": each})) for each in ahead] == [2, 16, 3]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [True, False])
def test_uncollected_batches_are_warned_about(tmp_path: Path, batch: bool) -> None:
    files, events = NodeFiles(tmp_path), Events()
    ledger = Ledger(files.ledger, LimitsConfig())
    for provider, model in (("box", "test-model"), ("box", "other"), ("elsewhere", "test-model")):
        BatchStore(ledger, provider, model).open([(Line(0, "answer", "abc", (0,), 0), 0.25)])
    ledger.close()
    with api_server() as server:
        own = {"base_url": server.base_url, "model": "test-model", "batch": True}
        config = Config.model_validate(
            {
                "providers": {"box": own},
                "offload": {"provider": "box", "batch": batch, "prices": {"box": PriceConfig(input=2, output=8)}},
            }
        )
        offload = open_offload(config, files, Secrets(), events, StopFlag())
        assert offload is not None
        offload.close()
    told = [warning["message"] for warning in events.of("warning") if warning["code"] == "batch_left"]
    left = ["box, offload.model=other", "elsewhere, offload.model=test-model"]
    assert [message.split("offload.provider=")[1].removesuffix(" and offload.batch=true.") for message in told] == (
        left if batch else [left[0], "box, offload.model=test-model", left[1]]
    )
    assert told[0].startswith("requests of an earlier run still in batches at box: 1 (0.25 USD reserved). ")
    (announced,) = events.of("offload")
    assert announced["usd_per_million_output"] == (4 if batch else 8)
