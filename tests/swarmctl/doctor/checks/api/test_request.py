"""``doctor --deep``: one test request per provider, its cost, and the handling of faulty responses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from hivemind_exp.config import LimitsConfig
from hivemind_exp.money import dollars
from hivemind_exp.offload.ledger import Ledger, RequestKey
from swarmctl import cli
from swarmctl.doctor import command, registry
from swarmctl.doctor.check import Finding, Status
from swarmctl.errors import Exit
from swarmctl.nodes.lookup import files_of
from tests.support.doctor import make
from tests.support.doctor_api import KEY, give_key, look, profile
from tests.support.fake_api.server import ApiServer, api_server
from tests.support.fake_api.transformers_server import TransformersServer


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that gives the provider ``box`` a key."""
    return partial(give_key, tmp_path / "box.key", monkeypatch)


def deep_request(home: Path, server: ApiServer, **more: str) -> Finding:
    profile(home, server.base_url, box="needs_key = true", **more)
    return look("api.box.request", deep=True)["box.request"]


def test_deep_sends_one_request_and_reports_its_cost(
    home: Path, key_file: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with api_server(keys={KEY}, rpm=600, tpm=90000) as server:
        key_file(KEY)
        finding = deep_request(home, server)
        (entry,) = [each for each in server.ledger.entries if each.endpoint == "chat"]
        assert (entry.key, entry.n, entry.parameters["max_tokens"]) == (KEY, 1, 1024)
        assert finding.status is Status.OK
        usd = server.usd(2.0, 8.0)
        assert 0 < usd < 0.001
        assert "test-model responded in " in finding.text
        assert f" output tokens: {dollars(usd)}, not counted" in finding.text
        assert "599 of 600 requests left" in finding.text
        assert cli.run(["doctor", "api", "-p", "offloaded", "--deep"]) == Exit.DONE
    out, err = capsys.readouterr()
    # Twice: 1024 tokens, and 2048 to reason with, at 8 USD per million.
    assert err == ("Sending a test question to the profile's provider. This costs at most 0.05 USD.\n")
    assert KEY not in out + err
    assert not (home / "nodes").exists()


@pytest.mark.parametrize(
    ("fault", "status", "told"),
    [
        ("no_credit", "failed", "HTTP 402"),
        ("rate_limit", "warning", "HTTP 429"),
        ("unknown_model", "failed", "HTTP 404"),
        ("server_error", "failed", "HTTP 500"),
        ("html_ok", "failed", "an HTML page); this may have cost up to 0.05 USD"),
        ("truncated", "failed", "this may have cost up to 0.05 USD"),
        ("close", "failed", "this may have cost up to 0.05 USD"),
        ("no_usage", "ok", "it did not report its token usage: at most 0.05 USD"),
        ("no_choices", "failed", "without a usable text: it has no choices"),
        ("other_model", "ok", ""),
    ],
)
def test_faulty_response_is_reported(
    fault: str, status: str, told: str, home: Path, key_file: Callable[[str], None]
) -> None:
    with api_server(keys={KEY}) as server:
        key_file(KEY)
        server.always(fault)
        finding = deep_request(home, server)
        assert sum(entry.endpoint == "chat" for entry in server.ledger.entries) == 1
    assert (str(finding.status), told in finding.text) == (status, True), finding
    assert KEY not in finding.text


def test_after_a_rejected_request_the_models_are_listed(home: Path, key_file: Callable[[str], None]) -> None:
    with api_server(keys={KEY}) as server:
        key_file(KEY)
        server.always("unknown_model")
        assert deep_request(home, server).remedy == "swarmctl models box --profile offloaded"


def test_rejected_parameter_is_omitted(home: Path, key_file: Callable[[str], None]) -> None:
    with api_server(keys={KEY}, rejects=("temperature", "max_tokens")) as server:
        key_file(KEY)
        finding = deep_request(home, server)
        *_, last = [entry for entry in server.ledger.entries if entry.endpoint == "chat"]
    assert finding.status is Status.OK
    assert last.parameters == {"max_completion_tokens": 1024}


def test_no_request_is_sent_when_the_cap_is_used_up(home: Path, key_file: Callable[[str], None]) -> None:
    files = files_of("offloaded")
    files.root.mkdir(parents=True)
    ledger = Ledger(files.ledger, LimitsConfig(usd="unlimited"))
    ledger.reserve(RequestKey("box", "m", 0, "answer", "q", 1), 4.9999)
    with api_server(keys={KEY}) as server:
        key_file(KEY)
        offload = "[offload.limits]\nusd = 5.0"
        profile(home, server.base_url, box="needs_key = true", more=offload)
        context = make("offloaded", "node.name=offloaded", deep=True)
        (outcome,) = command.make(registry.select(["api.box.request"], context), context)
        assert [entry for entry in server.ledger.entries if entry.endpoint == "chat"] == []
    ledger.close()
    assert outcome.finding.status is Status.SKIPPED
    assert outcome.finding.text == "not sent: 5.00 USD of the 5.00 USD cap (offload.limits.usd) are used"


@pytest.mark.slow
def test_a_real_server(home: Path, real_server: TransformersServer) -> None:
    profile(home, real_server.base_url, box="free = true")
    context = make("offloaded", f"offload.model={real_server.model}", deep=True)
    outcomes = command.make(registry.select(["api"], context), context)
    found = {outcome.check.name: outcome.finding for outcome in outcomes}
    assert found["box.service"].status is Status.OK
    request = found.pop("box.request")
    # An untrained model writes random text, in which an answer may or may not be found.
    readable, said = (Status.OK, "responded in "), (Status.WARNING, "answered the test question")
    status, text = said if "no readable answer" in request.text else readable
    assert (request.status, text in request.text) == (status, True), request
    assert all(finding.status in (Status.OK, Status.SKIPPED) for finding in found.values()), found


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("empty", "without a usable text: it is empty"),
        ("null", "without a usable text: it is empty"),
        ("filtered", "without a usable text: the service's filter removed it"),
    ],
)
def test_an_answer_without_a_usable_text_fails(
    fault: str, told: str, home: Path, key_file: Callable[[str], None]
) -> None:
    with api_server(keys={KEY}) as server:
        key_file(KEY)
        server.always(fault)
        finding = deep_request(home, server)
    assert (finding.status, finding.remedy) == (Status.FAILED, "swarmctl models box --profile offloaded")
    assert told in finding.text


def test_a_model_that_reasons_gets_more_tokens_and_an_answer_without_tags_is_a_warning(
    home: Path, key_file: Callable[[str], None]
) -> None:
    with api_server(keys={KEY}, reasoning=1500) as server:
        key_file(KEY)
        assert deep_request(home, server).status is Status.OK
        limits = [entry.parameters["max_tokens"] for entry in server.ledger.entries if entry.endpoint == "chat"]
        assert limits == [1024, 1024 + 2048]
        server.set(reasoning=0, answer="tests.support.fake_api.ask:digest_answer")
        finding = deep_request(home, server)
    assert finding.status is Status.WARNING
    assert 'answered the test question ("What is 2 + 3?"), but the text has no readable answer' in finding.text
