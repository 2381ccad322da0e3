"""Which proxy a request goes through."""

from __future__ import annotations

import os
import shlex
import sys

import pytest

from hivemind_exp.errors import ConfigurationError, KeyProblem
from hivemind_exp.proxies import address_in, check_key_stays_private, proxy_for, with_direct_loopback


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variables", "url", "variable"),
    [
        ({}, "https://a.example", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://a.example", "HTTPS_PROXY"),
        ({"https_proxy": "p:1"}, "https://a.example", "https_proxy"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://a.example", None),
        ({"ALL_PROXY": "socks5h://p:1"}, "https://a.example", "ALL_PROXY"),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "b.example,.a.example"}, "https://x.a.example/v1", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "a.example:8443"}, "https://a.example:8443/v1", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "a.example:8443"}, "https://a.example/v1", "ALL_PROXY"),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "*"}, "https://a.example", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "http://10.1.2.3:8000/v1", None),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "http://11.1.2.3/v1", "ALL_PROXY"),
        ({"ALL_PROXY": "http://p:1", "NO_PROXY": "[fd00::]/8,fd00::/8"}, "http://[fd00::1]:80/v1", None),
        ({"ALL_PROXY": "http://p:1"}, "http://127.0.0.1:8000/v1", None),
        ({"ALL_PROXY": "http://p:1"}, "http://127.8.8.8:8000/v1", None),
        ({"ALL_PROXY": "http://p:1"}, "http://[::1]:8000/v1", None),
        ({"ALL_PROXY": "http://p:1"}, "http://LOCALHOST:8000/v1", None),
        ({"ALL_PROXY": "http://p:1"}, "http://llm.localhost/v1", None),
        *(
            ({"ALL_PROXY": "http://p:1"}, f"http://{host}:8000/v1", None)
            for host in ("0.0.0.0", "[::]", "127.1", "2130706433", "0x7f000001", "127.0.0.1.", "[::ffff:127.0.0.1]")
        ),
        ({"ALL_PROXY": "http://p:1"}, "http://134744072/v1", "ALL_PROXY"),
        ({"ALL_PROXY": "http://p:1"}, "http://localhost.evil.example/v1", "ALL_PROXY"),
        ({"ALL_PROXY": "http://p:1"}, "http://192.168.1.20/v1", "ALL_PROXY"),
    ],
)
def test_proxies_by_variable(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, variable: str | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = proxy_for(url)
    assert (found and found.variable) == variable
    if found is not None:
        assert "://" in found.url
        assert "p:1" not in repr(found)


def test_the_error_about_an_unknown_proxy_scheme_hides_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "gopher://me:secret@p:1")
    with pytest.raises(ConfigurationError, match=r"\$HTTPS_PROXY: the scheme 'gopher' is not one of") as error:
        proxy_for("https://a.example")
    assert "secret" not in error.value.message
    assert error.value.next == "unset HTTPS_PROXY"


@pytest.mark.parametrize("proxy", ["http://p:1", "https://p:1", "socks5://p:1"])
def test_no_proxy_can_read_a_key(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    check_key_stays_private("https://a.example/v1")  # the proxy sees only the host
    check_key_stays_private("http://127.0.0.1:8000/v1")
    with pytest.raises(KeyProblem, match=r"the proxy in \$ALL_PROXY would read the key") as error:
        check_key_stays_private("http://a.example/v1")
    assert error.value.next == "export NO_PROXY=a.example${NO_PROXY:+,$NO_PROXY}"
    monkeypatch.setenv("NO_PROXY", "a.example")
    check_key_stays_private("http://a.example/v1")


def test_libraries_reach_this_machine_directly() -> None:
    found = with_direct_loopback({"NO_PROXY": "a.example", "PATH": "/bin"})
    assert found == {
        "NO_PROXY": "a.example,localhost,127.0.0.1,::1,0.0.0.0",
        "no_proxy": "a.example,localhost,127.0.0.1,::1,0.0.0.0",
        "PATH": "/bin",
    }
    assert with_direct_loopback({"no_proxy": "b", "NO_PROXY": "c"})["NO_PROXY"] == "b,localhost,127.0.0.1,::1,0.0.0.0"


@pytest.mark.parametrize("proxy", ["http://[bad", "http://p:99999", "http://", "http://:8080"])
def test_an_invalid_proxy_is_named(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ConfigurationError, match=r"invalid proxy in \$HTTPS_PROXY") as error:
        proxy_for("https://a.example")
    assert error.value.next == "unset HTTPS_PROXY"


@pytest.mark.parametrize("url", ["https://[bad", "https://h:99999", "https:///x", "ftp://x", "nonsense", r"http://a\b"])
def test_an_invalid_address_in_a_variable_is_named(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"invalid \$HF_ENDPOINT") as error:
        address_in({"HF_ENDPOINT": url}, "HF_ENDPOINT")
    assert error.value.next == "unset HF_ENDPOINT"


def test_an_address_in_a_variable() -> None:
    assert address_in({"HF_ENDPOINT": " HTTPS://hub.example/ "}, "HF_ENDPOINT") == "HTTPS://hub.example"
    assert address_in({"HF_ENDPOINT": " "}, "HF_ENDPOINT") is None
    assert address_in({}, "HF_ENDPOINT") is None


def test_a_socks_proxy_without_its_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5h://me:secret@p:1")
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(ConfigurationError, match=r"the proxy in \$ALL_PROXY is a SOCKS proxy, which needs") as error:
        proxy_for("https://a.example")
    assert error.value.next == f"{shlex.quote(sys.executable)} -m pip install socksio"
    assert "secret" not in error.value.message
