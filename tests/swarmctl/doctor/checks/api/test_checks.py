"""The api checks against real servers: working, misbehaving, dead, unresolvable, with a wrong certificate."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import pytest

from hivemind_exp.config import Config
from hivemind_exp.providers import PROVIDERS
from swarmctl import cli
from swarmctl.doctor.check import Finding, Status
from swarmctl.doctor.checks.api.service import limits, services
from swarmctl.errors import Exit
from swarmctl.keys.local_servers import FETCH, START, server_command
from tests.support.command_line import write_profile
from tests.support.doctor import DEAD
from tests.support.doctor_api import KEY, give_key, look, profile
from tests.support.fake_api.server import api_server
from tests.support.fake_services import service
from tests.support.tls import certificate, https_server

pytestmark = pytest.mark.slow

NAMES = ["host", "price", "key", "service", "model", "request"]


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that gives the provider ``box`` a key."""
    return partial(give_key, tmp_path / "box.key", monkeypatch)


def statuses(found: dict[str, Finding]) -> dict[str, str]:
    return {name.removeprefix("box."): str(finding.status) for name, finding in found.items()}


def test_working_service_passes_all_checks(home: Path, key_file: Callable[[str], None]) -> None:
    with api_server(keys={KEY}) as server:
        key_file(KEY)
        profile(home, server.base_url, box="needs_key = true")
        found = look()
        asked = server.ledger.entries
    assert statuses(found) == {"settings": "ok"} | dict.fromkeys(NAMES, "ok") | {"request": "skipped"}
    assert found["settings"].text.startswith("box:test-model, else this machine; teacher: ")
    assert found["box.price"].text == (
        "box:test-model: 2 USD per million input tokens, 8 USD per million output tokens (set in the profile)"
    )
    assert found["box.key"].text == "····1234 from $SWARMCTL_BOX_API_KEY_FILE"
    assert "connected to 127.0.0.1 in " in found["box.host"].text
    assert found["box.service"].text.startswith("key accepted in 0.")
    assert found["box.service"].text.endswith("1 model; no rate limits reported")
    assert found["box.model"].text == "test-model is listed (models in total: 1)"
    assert found["box.request"].text == "runs only with --deep"
    assert [(entry.endpoint, entry.key) for entry in asked] == [("models", KEY)]


@pytest.mark.parametrize(
    ("model", "checked", "text"),
    [
        ("gpt-4o", date(2020, 1, 31), "what swarmctl knows about openai is from 2020-01-31; update swarmctl"),
        ("gpt-4o", date.today(), "openai:gpt-4o: "),
    ],
)
def test_an_old_row_of_the_provider_table_is_reported(
    home: Path, monkeypatch: pytest.MonkeyPatch, model: str, checked: date, text: str
) -> None:
    row = PROVIDERS["openai"]
    assert row.chat is not None
    monkeypatch.setitem(PROVIDERS, "openai", replace(row, chat=replace(row.chat, checked=checked)))
    write_profile(home, "offloaded", f'extends = "demo"\n[offload]\nprovider = "openai"\nmodel = "{model}"\n')
    found = look("api.openai.price", offline=True)["openai.price"]
    assert found.text.startswith(text)
    assert (found.status is Status.WARNING, found.remedy) in (
        (True, "swarmctl models openai --profile offloaded"),
        (False, None),
    )


def test_a_retired_model_is_reported(home: Path) -> None:
    write_profile(home, "offloaded", 'extends = "demo"\n[offload]\nprovider = "cerebras"\nmodel = "llama3.1-8b"\n')
    found = look("api.cerebras.price", offline=True)["cerebras.price"]
    assert found.text == "cerebras:llama3.1-8b is retired, or will be soon, according to genai-prices"
    assert found.remedy == "swarmctl models cerebras --profile offloaded"


def test_without_offloading_the_api_checks_are_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "api", "-p", "demo", "--json"]) == Exit.DONE
    (row,) = json.loads(capsys.readouterr().out)["checks"]
    assert (row["name"], row["status"], row["finding"]) == ("providers", "skipped", "no provider in this profile")


def test_a_wrong_key(home: Path, key_file: Callable[[str], None]) -> None:
    with api_server(keys={"another"}) as server:
        key_file(KEY)
        profile(home, server.base_url, box="needs_key = true")
        found = look(deep=True)
    assert found["box.service"].status is Status.FAILED
    assert "does not accept the key (HTTP 401)" in found["box.service"].text
    assert found["box.service"].remedy == f"swarmctl keys set box --host {server.base_url}"
    assert found["box.model"].status is Status.SKIPPED
    assert found["box.request"].text == 'HTTP 401: the API key was rejected: "Incorrect API key provided."'
    assert found["box.request"].remedy == f"swarmctl keys set box --host {server.base_url}"
    assert not any(KEY in f"{finding.text}{finding.remedy}" for finding in found.values())


def test_key_is_missing_pinned_or_not_needed(
    home: Path, key_file: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with api_server(keys=set()) as server:
        profile(home, server.base_url, box="needs_key = true")
        found = look()
        assert found["box.key"].text == "no key for box"
        assert found["box.key"].remedy == f"swarmctl keys set box --host {server.base_url}"
        assert found["box.service"].text == "not checked: no key"
        key_file(KEY)
        profile(home, server.base_url, box="needs_key = true", offload='key = "environment"')
        assert "no key for box in 'environment', the only location that offload.key allows" in look()["box.key"].text
        assert server.ledger.entries == ()
        monkeypatch.delenv("SWARMCTL_BOX_API_KEY_FILE")
        profile(home, server.base_url)
        found = look()
        assert found["box.key"].text == "no key found; requests are sent without one"
        assert "the service requires a key (HTTP 401)" in found["box.service"].text


def test_unlisted_model_is_a_warning(home: Path) -> None:
    with api_server(models=("models/test-modell", "x")) as server:
        profile(home, server.base_url)
        found = look()["box.model"]
        assert found.status is Status.WARNING
        assert found.text == "box does not list the model test-model; it lists 2 others. Did you mean test-modell?"
        assert "--set offload.model=test-modell" in (found.remedy or "")
        server.set(models=("models/test-model",))
        assert look()["box.model"].status is Status.OK
        server.set(models=("test-model:latest",))
        assert look()["box.model"].status is Status.OK
        server.set(models=())
        assert look()["box.model"].status is Status.SKIPPED


@pytest.mark.parametrize(
    ("fault", "status", "told"),
    [
        ("server_error", "failed", "the service responded with HTTP 500"),
        ("unavailable", "failed", "HTTP 503"),
        ("html_gateway", "failed", "HTTP 502"),
        ("html_ok", "failed", "another kind of server"),
        ("truncated", "failed", "another kind of server"),
        ("rate_limit", "warning", "the service is limiting requests (HTTP 429)"),
        ("quota", "failed", "has no credit left (HTTP 429)"),
        ("no_credit", "failed", "has no credit left (HTTP 402)"),
        ("forbidden", "failed", "does not accept the key (HTTP 403)"),
        ("unknown_model", "warning", "no list of models"),
        ("redirect", "failed", ", and the key was not sent there"),
        ("close", "failed", ""),
        ("reset", "failed", ""),
        ("stall", "unknown", "no response within 4 s"),
        ("drip", "unknown", "no response within 4 s"),
    ],
)
def test_faulty_model_list_is_reported(
    fault: str, status: str, told: str, home: Path, key_file: Callable[[str], None]
) -> None:
    with api_server(keys={KEY}) as server:
        key_file(KEY)
        profile(home, server.base_url, box="needs_key = true")
        server.always(fault, endpoint="models")
        found = look("api.box.service", "api.box.model")
        assert len(server.ledger.entries) == 1
    finding = found["box.service"]
    assert (str(finding.status), told in finding.text) == (status, True), finding
    assert found["box.model"].status is Status.SKIPPED
    assert KEY not in finding.text


def test_local_server_with_a_faulty_model_list_may_still_generate(home: Path) -> None:
    with api_server() as server:
        profile(home, server.base_url, box="free = true")
        server.always("server_error", endpoint="models")
        shallow = look()["box.service"]
        found = look(deep=True)
    assert shallow.status is Status.WARNING
    assert shallow.text.endswith("the service responded with HTTP 500; --deep checks whether it generates")
    assert shallow.remedy == "swarmctl doctor api --deep --profile offloaded"
    deep = found["box.service"]
    assert (deep.status, deep.remedy) == (Status.SKIPPED, None)
    assert deep.text.endswith("the service responded with HTTP 500; box.request checks whether it generates")
    assert found["box.request"].status is Status.OK


def test_a_dead_port(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        profile(home, f"http://127.0.0.1:{port}/v1", box="free = true")
        found = look(deep=True)
    assert found["box.host"].status is Status.FAILED
    assert next(iter(found)) == "settings"
    assert [*found][1] == "box.host", "the problem comes first"
    assert found["box.host"].text == f"nothing is listening at 127.0.0.1:{port}. Start the server, then check again"
    assert (found["box.host"].remedy or "").startswith("swarmctl doctor api --profile ")
    for name in ("service", "model", "request"):
        assert found[f"box.{name}"].text == "not checked: cannot reach the host"


def test_unresolvable_host_is_reported(home: Path) -> None:
    profile(home, "https://no-such-host.invalid/v1")
    found = look()["box.host"]
    assert found.status is Status.FAILED
    assert "cannot resolve no-such-host.invalid: " in found.text
    assert (found.remedy or "").endswith(" no-such-host.invalid")


def test_certificates(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, other, old = (
        certificate(tmp_path / "good.pem", "localhost"),
        certificate(tmp_path / "other.pem", "elsewhere.example"),
        certificate(tmp_path / "old.pem", "localhost", days=-2),
    )
    with https_server(good) as url:
        profile(home, url)
        found = look()
        assert found["box.host"].status is Status.FAILED
        assert "the certificate of localhost is not trusted: self-signed certificate" in found["box.host"].text
        assert (found["box.host"].remedy or "").startswith("openssl s_client -connect localhost:")
        assert found["box.service"].status is Status.SKIPPED
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(good))  # which these libraries ignore
        assert look()["box.host"].remedy == 'export SSL_CERT_FILE="$REQUESTS_CA_BUNDLE"'
        monkeypatch.setenv("SSL_CERT_FILE", str(good))
        found = look()
        assert found["box.host"].status is Status.OK
        assert "TLSv1.3, certificate valid for 30 days" in found["box.host"].text
        assert found["box.model"].status is Status.OK
    for file, told in ((other, "certificate is not valid for 'localhost'"), (old, "certificate has expired")):
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        with https_server(file) as url:
            profile(home, url)
            assert told in look()["box.host"].text


def test_a_server_without_tls_at_an_https_url_is_reported(home: Path) -> None:
    with api_server() as server:
        profile(home, server.base_url.replace("http://", "https://"))
        found = look()["box.host"]
    assert found.status is Status.FAILED
    assert f"TLS handshake with {server.base_url.split('/')[2]} failed: " in found.text


def test_offline_sends_no_request_but_finds_the_key(home: Path, key_file: Callable[[str], None]) -> None:
    with api_server(keys={KEY}) as server:
        key_file(KEY)
        profile(home, server.base_url, box="needs_key = true")
        found = look(offline=True, deep=True)
        assert server.ledger.entries == ()
    expected = {"settings": "ok", "price": "ok", "key": "ok"}
    assert statuses(found) == expected | dict.fromkeys(["host", "service", "model", "request"], "skipped")


def test_behind_a_proxy_the_host_check_is_skipped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with service() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "")
        proxy.act = '{"data": [{"id": "test-model"}]}'
        profile(home, "http://llm.example/v1")
        found = look()
        assert [path for path, _ in proxy.asked] == ["http://llm.example/v1/models"]
    assert found["box.host"].text == "not checked: llm.example is reached through the proxy in $http_proxy"
    assert found["box.model"].status is Status.OK


def test_inconsistent_settings_and_unknown_prices_fail(home: Path) -> None:
    profile(home, DEAD, offload="batch = true")
    assert look(offline=True)["settings"].text == "box has no Batch API"
    write_profile(
        home,
        "offloaded",
        f'extends = "demo"\n[offload]\nprovider = "box"\n[providers.box]\nbase_url = "{DEAD}"\nmodel = "m"\n',
    )
    found = look(offline=True, deep=True)["box.price"]
    assert (found.status, "the price of box:m is unknown" in found.text) == (Status.FAILED, True)
    assert "offload.prices.box" in found.text
    assert (found.remedy or "").endswith("--set providers.box.free=true")
    write_profile(home, "offloaded", 'extends = "demo"\n[offload]\nprovider = "opnai"\n')
    found = look(offline=True)["settings"]
    assert (found.status, "did you mean openai?" in found.text) == (Status.FAILED, True)


def test_advice_keeps_the_profile_and_node(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_profile(
        home,
        "unpriced",
        f'[offload]\nprovider = "box"\n[providers.box]\nbase_url = "{DEAD}"\nmodel = "teach"\n',
    )
    assert cli.run(["doctor", "api", "--offline", "-p", str(path), "--node", "n", "--json"]) == Exit.CHECK_FAILED
    remedies = {row["name"]: row["remedy"] for row in json.loads(capsys.readouterr().out)["checks"]}
    assert remedies["box.price"].endswith(
        f"swarmctl run --profile {path} --node n --offload box:teach --set providers.box.free=true"
    )


def test_unusable_fallback_is_only_a_warning(home: Path) -> None:
    more = f'[providers.spare]\nbase_url = "{DEAD}"\nmodel = "m"\nfree = true\n'
    with api_server(models=("test-model", "other-model-2")) as server:
        profile(home, server.base_url, offload='fallback = ["spare", "box:other-model-1", "local"]', more=more)
        found = look()
    assert found["spare.host"].status is Status.WARNING
    assert [name for name in found if name.startswith("box:")] == [
        *(f"box:test-model.{name}" for name in NAMES),
        *(f"box:other-model-1.{name}" for name in NAMES),
    ]
    assert found["box:test-model.model"].status is Status.OK
    assert found["box:other-model-1.model"].status is Status.WARNING
    assert '"box:other-model-2"' in (found["box:other-model-1.model"].remedy or "")


def test_the_judge_is_checked_like_the_generator(home: Path) -> None:
    judge = '[judge]\nprovider = "grader"\n[providers.grader]\nmodel = "test-modell"\nfree = true\nbase_url = '
    with api_server() as server:
        profile(home, server.base_url, offload="share = 0.5", more=f'{judge}"{DEAD}"\n')
        found = look()
        assert list(found) == ["settings", *(f"{who}.{name}" for who in ("box", "grader") for name in NAMES)]
        assert "box:test-model, else this machine; teacher: " in found["settings"].text
        assert ". grader:test-modell; judge: a grade for each of this node's completions" in found["settings"].text
        assert found["box.model"].status is Status.OK
        assert found["grader.host"].status is Status.FAILED  # the node waits for it, so it cannot do without
        profile(home, server.base_url, more=f'{judge}"{DEAD}"\n')
        assert "offload.share = 1" in look("api.settings")["settings"].text
        # A fallback that is also the judge has to work.
        both = f'{judge}"{server.base_url}"\n'
        profile(home, server.base_url, offload='share = 0.5\nfallback = ["grader"]', more=both)
        found = look()
    assert [name for name in found if name.endswith(".model")] == ["box.model", "grader.model"]
    assert found["grader.model"].status is Status.WARNING  # one's own server may have models that it does not list
    assert "judge.model=test-model" in (found["grader.model"].remedy or "")


def test_one_provider_can_be_selected(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile(home, DEAD)
    command = ["doctor", "-p", "offloaded", "--offline", "--json"]
    assert cli.run([*command, "api.box"]) == Exit.DONE
    rows = json.loads(capsys.readouterr().out)["checks"]
    assert [row["name"] for row in rows] == [f"box.{name}" for name in NAMES]
    assert cli.run([*command, "api.bx"]) == Exit.USAGE
    assert "did you mean api.box?" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_report_hides_hosts_of_custom_providers(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile(home, "https://llm.corp.invalid:8443/v1", box="needs_key = true")
    assert cli.run(["doctor", "api", "-p", "offloaded", "--report"]) == Exit.CHECK_FAILED
    out = capsys.readouterr().out
    assert "llm.corp" not in out
    assert "cannot resolve HOST: " in out


def test_local_servers_get_a_start_command() -> None:
    def first(name: str, model: str) -> tuple[str | None, str | None]:
        config = Config.model_validate({"offload": {"provider": name, "model": model}})
        (only,) = services(config)
        return server_command(only.endpoint, START), server_command(only.endpoint, FETCH)

    assert first("vllm", "org/m") == ("vllm serve org/m --port 8000", None)
    assert first("ollama", "a b") == ("ollama serve", "ollama pull 'a b'")
    assert first("llamacpp", "./m.gguf")[0] == "llama-server -m ./m.gguf --port 8080"
    assert first("llamacpp", "org/m")[0] == "llama-server -hf org/m --port 8080"
    assert first("openai", "gpt-4o-mini") == (None, None)
    assert first("llamacpp", "any") == (None, None), "as `swarmctl models llamacpp` suggests: no model is known"
    assert first("ollama", "any") == ("ollama serve", None)


def test_rate_limits_that_are_not_numbers_are_dropped() -> None:
    headers = {"x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "499"}
    assert limits(headers) == "limits: 499 of 500 requests left"
    assert limits(headers | {"x-ratelimit-limit-tokens": "200000"}).endswith(", 200,000 tokens")
    assert limits({"x-ratelimit-limit-requests": "sk-secret", "x-ratelimit-limit-tokens": "９"}) == (
        "no rate limits reported"
    )
