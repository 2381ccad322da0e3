"""Where a key comes from, and to which address it belongs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hivemind_exp.errors import KeyProblem
from swarmctl.errors import Exit
from swarmctl.keys.finder import LocationKind, address_to_test
from swarmctl.keys.saved import read_entry
from tests.support.fake_api.server import api_server
from tests.support.saved_keys import KEY, OTHER, Run, find, save


def test_order_of_precedence(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run, "huggingface", "hf_saved_0123456789abcdef")
    (tmp_path / "token").write_text("hf_hubfile_0123456789abcdef\n")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials/huggingface").write_text("hf_systemd_0123456789abcdef\n")
    (tmp_path / "given").write_text("hf_file_0123456789abcdef\n")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_older_0123456789abcdef")
    monkeypatch.setenv("HF_TOKEN", "hf_variable_0123456789abcdef")
    monkeypatch.setenv("SWARMCTL_HUGGINGFACE_API_KEY_FILE", str(tmp_path / "given"))
    expected = ["file", "variable", "older", "systemd", "saved", "hubfile"]
    removals: list[Callable[[], object]] = [
        lambda: monkeypatch.delenv("SWARMCTL_HUGGINGFACE_API_KEY_FILE"),
        lambda: monkeypatch.setenv("HF_TOKEN", " "),
        lambda: monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN"),
        (tmp_path / "credentials/huggingface").unlink,
        lambda: run("delete", "huggingface"),
        (tmp_path / "token").unlink,
    ]
    for winner, remove in zip(expected, removals, strict=True):
        key = find("huggingface")
        assert key is not None
        assert key.value.split("_")[1] == winner
        remove()
    assert find("huggingface") is None


def test_overridden_keys_are_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run)
    monkeypatch.setenv("OPENAI_API_KEY", OTHER)
    key = find("openai")
    assert key is not None
    assert key.reason == "····a1b2 from $OPENAI_API_KEY (overrides ····9f3c from 0600 file)"
    pinned = find("openai", pin=LocationKind.FILE)
    assert pinned is not None
    assert pinned.value == KEY
    with pytest.raises(KeyProblem, match=r"no key for openai in 'keyring', the only location that offload\.key allows"):
        find("openai", pin=LocationKind.KEYRING)
    _, _, err = run("set", "openai", "--no-test", "--insecure-storage", piped=KEY)
    assert "$OPENAI_API_KEY (····a1b2) overrides the saved key until you unset it" in err


def test_an_unreadable_first_location_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", OTHER)
    monkeypatch.setenv("SWARMCTL_OPENAI_API_KEY_FILE", str(tmp_path / "missing"))
    with pytest.raises(KeyProblem, match="No such file"):
        find("openai")


def test_a_key_belongs_to_its_host(run: Run, home: Path) -> None:
    save(run)
    code, _, err = run("set", "openai", "--host", "https://evil.example/v1", "--insecure-storage", piped=KEY)
    assert code == Exit.CONFIGURATION
    assert "the key openai is only sent to https://api.openai.com/v1" in err
    for url in (
        "https://api.openai.com.evil.example/v1",
        "https://api.openai.com:8443/v1",
        "http://api.openai.com/v1",
        "http://api.openai.com:443/v1",
    ):
        with pytest.raises(KeyProblem, match=r"belongs to https://api\.openai\.com and is not sent to"):
            find("openai", base_url=url)
    save(run, "mybox", KEY, "--host", "https://llm.example:9000/v1/")
    entry = read_entry("mybox")
    assert entry is not None
    assert (entry.base_url, entry.host) == ("https://llm.example:9000/v1", "llm.example:9000")
    for other in ("https://other.example/v1", "http://llm.example:9000/v1", "https://llm.example/v1"):
        with pytest.raises(KeyProblem, match=r"belongs to https://llm\.example:9000 and is not sent to"):
            find("mybox", base_url=other)
    # A manipulated index does not send the key elsewhere.
    index = home / "keys/mybox.json"
    index.write_text(index.read_text().replace("llm.example", "evil.example"))
    with pytest.raises(KeyProblem, match=r"contains no key for evil\.example"):
        find("mybox")


def test_a_damaged_index_is_reported(run: Run, home: Path) -> None:
    save(run)
    (home / "keys/openai.json").write_text("{")
    code, _, err = run("list")
    assert code == Exit.CONFIGURATION
    assert "damaged" in err


def test_a_damaged_or_old_index(run: Run, home: Path) -> None:
    save(run, "mybox", KEY, "--host", "https://llm.example/v1")
    index = home / "keys/mybox.json"
    whole = json.loads(index.read_text())
    for old in ({**whole, "base_url": "llm.example/v1"}, {name: whole[name] for name in whole if name != "base_url"}):
        index.write_text(json.dumps(old))
        key = find("mybox", base_url="https://llm.example:443/v2")
        assert key is not None
        assert (key.value, key.origin) == (KEY, "https://llm.example")
        with pytest.raises(KeyProblem, match=r"is not sent to http://llm\.example"):
            find("mybox", base_url="http://llm.example/v1")


@pytest.mark.parametrize("variable", ["SWARMCTL_MYBOX_API_KEY_FILE", "CREDENTIALS_DIRECTORY"])
def test_a_key_file_belongs_to_the_address_of_its_first_use(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    (tmp_path / "mybox").write_text(KEY)
    monkeypatch.setenv(variable, str(tmp_path if variable.startswith("CRED") else tmp_path / "mybox"))
    assert getattr(find("mybox", base_url="https://llm.example/v1"), "value", None) == KEY
    assert getattr(find("mybox", base_url="https://LLM.example:443/other"), "value", None) == KEY
    for other in ("http://llm.example/v1", "https://evil.example/v1", "https://llm.example:8443/v1"):
        with pytest.raises(KeyProblem, match=r"belongs to https://llm\.example and is not sent to") as error:
            find("mybox", base_url=other)
        assert error.value.next == "swarmctl keys delete mybox"
    code, _, err = run("delete", "mybox")
    assert (code, err) == (
        Exit.DONE,
        "Key mybox no longer belongs to https://llm.example. It will belong to the address of its next use.\n",
    )
    assert getattr(find("mybox", base_url="https://new.example/v1"), "value", None) == KEY


def test_a_servers_key_that_only_a_variable_names_is_listed_and_tested(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(KEY)
    monkeypatch.setenv("SWARMCTL_MY_BOX_API_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("SWARMCTL__API_KEY_FILE", "")
    code, out, _ = run("list")
    assert "my-box  (not used yet)  ····     $SWARMCTL_MY_BOX_API_KEY_FILE  not tested" in out
    code, out, _ = run("test")
    assert code == Exit.CHECK_FAILED
    told, following = out.splitlines()
    assert told == (
        "my-box: unreadable: key my-box from $SWARMCTL_MY_BOX_API_KEY_FILE has not been used yet, so the server that "
        "it belongs to is unknown"
    )
    assert following.startswith("  try: ")
    with api_server(keys={KEY}) as server:
        find("my-box", base_url=server.base_url)
        code, out, _ = run("test")
        assert code == Exit.DONE, out
        assert out.startswith("my-box: valid, ")
        code, out, _ = run("list", "--json")
        assert json.loads(out)["keys"][0]["host"] == server.url.removeprefix("http://")
        # A first use that an earlier version recorded has no path.
        record = home / "keys/first-use/my-box.json"
        record.write_text(json.dumps({"schema": 1, "origin": server.url}))
        assert find("my-box", base_url=server.base_url) is not None
        code, out, _ = run("test", "my-box")
        assert "no list of models at that address" in out


def test_a_token_belongs_to_its_hub(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rival(address: str | None) -> str | None:
        monkeypatch.setenv("HF_ENDPOINT", address) if address else monkeypatch.delenv("HF_ENDPOINT", raising=False)
        key = find("huggingface")
        assert key is not None
        return key.rival(os.environ)

    save(run, "huggingface", "hf_saved_0123456789abcdef")
    assert rival(None) is rival("https://huggingface.co/") is None
    for other in ("https://mirror.example", "http://huggingface.co", "https://huggingface.co:8443", "http://10.0.0.1"):
        assert rival(other) == other
    (tmp_path / "token").write_text("hf_file_0123456789abcdef")
    monkeypatch.setenv("SWARMCTL_HUGGINGFACE_API_KEY_FILE", str(tmp_path / "token"))
    assert rival("https://hub.example") is None
    assert rival("https://mirror.example") == "https://mirror.example"
    monkeypatch.delenv("SWARMCTL_HUGGINGFACE_API_KEY_FILE")
    monkeypatch.setenv("HF_TOKEN", "hf_variable_0123456789abcdef")  # set beside HF_ENDPOINT, so meant for it
    assert rival("https://hub.example") is rival("http://10.0.0.1") is None
    assert rival("http://hub.example") == "http://hub.example"
    monkeypatch.setenv("HTTP_PROXY", "http://10.0.0.2:3128")
    assert rival("http://10.0.0.1") == "http://10.0.0.1"


def test_a_key_is_tested_where_a_run_would_send_it(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tested(name: str = "huggingface") -> str | None:
        key = find(name)
        assert key is not None
        return address_to_test(key, os.environ)

    monkeypatch.setenv("HF_TOKEN", "hf_variable_0123456789abcdef")
    assert tested() == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example/")
    assert tested() == "https://hub.example"
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    with pytest.raises(KeyProblem, match=r"is meant for http://hub\.example \(\$HF_ENDPOINT\)") as error:
        tested()
    assert error.value.next == "unset HF_ENDPOINT"
    monkeypatch.delenv("HF_TOKEN")
    save(run, "huggingface", "hf_saved_0123456789abcdef")
    assert tested() == "https://huggingface.co"
    (tmp_path / "token").write_text("hf_file_0123456789abcdef")
    monkeypatch.setenv("SWARMCTL_HUGGINGFACE_API_KEY_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    assert tested() == "https://hub.example"  # its first use
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert tested() == "https://hub.example"
    monkeypatch.delenv("HF_ENDPOINT")
    assert tested() == "https://hub.example"
