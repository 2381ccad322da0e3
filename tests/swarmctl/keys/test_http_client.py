"""The HTTP client: same proxies and certificates as a run, limited in time, and no key to another host."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hivemind_exp.connection_errors import TRUST
from hivemind_exp.errors import KeyProblem
from swarmctl.keys import http_client
from swarmctl.keys.http_client import Unanswered, request
from tests.support.doctor import reply, serve
from tests.support.fake_services import GOOD, service
from tests.support.tls import certificate, https_server
from tests.support.tunnels import tunnels

ELSEWHERE = "http://llm.example/v1/models"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def as_a_run_asks(url: str, *, has_key: bool = False) -> int:
    """Send a request with a run's client; return the status."""
    from hivemind_exp.offload.api.http_client import http_client as client_of_a_run

    async def ask() -> int:
        headers = {"Authorization": f"Bearer {GOOD}"} if has_key else {}
        async with client_of_a_run(url, has_key=has_key) as client:
            return (await client.get(url, headers=headers)).status_code

    return asyncio.run(ask())


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY"])
def test_uses_the_same_proxy_as_a_run(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with service() as proxy:
        proxy.act = "list"
        monkeypatch.setenv(variable, proxy.url.removesuffix("/v1"))
        assert request("GET", ELSEWHERE, {}, 5).status == as_a_run_asks(ELSEWHERE) == 200
        assert [path for path, _ in proxy.asked] == [ELSEWHERE] * 2


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_requests_to_this_machine_use_no_proxy_as_in_a_run(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with service() as proxy, service() as server:
        server.act = "list"
        monkeypatch.setenv("ALL_PROXY", proxy.url.removesuffix("/v1").replace("http", kind))
        assert request("GET", server.url, {}, 5).status == as_a_run_asks(server.url) == 200
        assert (len(server.asked), len(proxy.asked)) == (2, 0)


def test_trusts_the_same_certificates_as_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = certificate(tmp_path / "own.pem", "localhost")
    with https_server(own) as url:
        told = re.escape(f"its certificate is not trusted: self-signed certificate. {TRUST}")
        for bundle, command in ((None, "AUTHORITY.pem"), (str(own), '"$REQUESTS_CA_BUNDLE"')):
            if bundle is not None:
                monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
            with pytest.raises(Unanswered, match=told) as raised:
                request("GET", url, {}, 5)
            assert raised.value.next == f"export SSL_CERT_FILE={command}"
        with pytest.raises(Exception, match="certificate verify failed"):
            as_a_run_asks(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(own))
        assert request("GET", url, {}, 5).status == as_a_run_asks(url)


@pytest.mark.parametrize("kind", ["http", "socks5", "socks5h"])
def test_a_key_goes_through_a_proxy_only_encrypted(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind != "http":
        pytest.importorskip("socksio")
    own = certificate(tmp_path / "own.pem", "llm.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(own))
    headers = {"Authorization": f"Bearer {GOOD}"}
    with https_server(own) as url, tunnels(urlsplit(url).port or 0) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"{kind}://{proxy.address}")
        assert request("GET", "https://llm.example/v1/models", headers, 5).status == 200
        assert as_a_run_asks("https://llm.example/v1/models", has_key=True) == 200
        assert proxy.hosts == ["llm.example"] * 2
        assert len(proxy.seen) > 500  # the handshakes and the requests
        with pytest.raises(Unanswered, match=r"the proxy in \$ALL_PROXY would read the key"):
            request("GET", ELSEWHERE, headers, 5)
        with pytest.raises(KeyProblem, match=r"the proxy in \$ALL_PROXY would read the key"):
            as_a_run_asks(ELSEWHERE, has_key=True)
        assert proxy.hosts == ["llm.example"] * 2
        assert GOOD.encode() not in proxy.seen


def test_a_redirect_to_another_host_is_reported_and_not_followed() -> None:
    with service() as thief, service() as server:
        server.act, server.elsewhere = "elsewhere", thief.url
        answer = request("GET", server.url, {"Authorization": f"Bearer {GOOD}"}, 5)
        assert (answer.status, answer.elsewhere, thief.asked) == (
            302,
            thief.url.removeprefix("http://").partition("/")[0],
            [],
        )
        server.act = "here"
        assert request("GET", server.url, {"Authorization": f"Bearer {GOOD}"}, 5).elsewhere is None
        assert server.asked[-1] == ("/moved", f"Bearer {GOOD}")


def test_endless_redirects_are_abandoned() -> None:
    with serve(reply(307, Location="/again")) as address:
        assert request("GET", address, {}, 5).status == 307


def test_a_large_response_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_MOST_BYTES", 10)
    with service() as server:
        server.act = "list"
        assert request("GET", server.url, {}, 5).body == b'[{"id": "o'


@pytest.mark.parametrize("act", ["hang", "drip"])
def test_slow_responses_time_out(act: str) -> None:
    with service() as server:
        server.act = act  # without end
        with pytest.raises(Unanswered, match=r"^no response within 0\.5 s$"):
            request("GET", server.url, {}, 0.5)


def test_an_invalid_proxy_raises_unanswered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://127.0.0.1:1")
    with pytest.raises(Unanswered, match="nonsense"):
        request("GET", ELSEWHERE, {}, 5)


def test_errors_do_not_contain_the_key() -> None:
    with pytest.raises(Unanswered) as caught:
        request("GET", "http://127.0.0.1:9/", {"Authorization": f"Bearer {GOOD}"}, 5)
    assert str(caught.value) == "connection refused"
    assert GOOD not in repr(caught.value.__cause__)
