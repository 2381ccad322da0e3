"""``swarmctl keys`` without a keyring: which keys are accepted or refused, and which take precedence."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hivemind_exp.errors import KeyProblem
from hivemind_exp.providers import KEY_VARIABLES, PROVIDERS
from hivemind_exp.secrets import without_secrets
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.keys.finder import Key, KeyFinder, LocationKind, address_to_test
from swarmctl.keys.key_text import clean_key, host_of, in_the_clear, last_four, looks_foreign
from swarmctl.keys.keyring import Keyring
from swarmctl.keys.saved import read_entry
from swarmctl.terminal.prompter import Prompter
from tests.support.command_line import ROOT
from tests.support.fake_api.server import api_server

KEY = "sk-test-0123456789abcd9f3c"
OTHER = "sk-test-0123456789abcda1b2"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``swarmctl keys`` with piped input; return exit code, stdout and stderr."""

    def run(*arguments: str, piped: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(piped))
        code = cli.run(["keys", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def save(run: Run, name: str = "openai", key: str = KEY, *more: str) -> None:
    code, _, err = run("set", name, "--insecure-storage", "--no-test", *more, piped=key)
    assert code == Exit.DONE, err


def find(name: str, **how: object) -> Key | None:
    return KeyFinder(Prompter(silent=True), os.environ).find(name, **how)  # type: ignore[arg-type]


def test_without_a_keyring_no_key_file_is_written_without_consent(run: Run, home: Path) -> None:
    code, out, err = run("set", "openai", "--no-test", piped=KEY)
    assert code == Exit.CONFIGURATION
    assert "no keyring is available in this session" in err
    assert "OPENAI_API_KEY" in err
    assert err.rstrip().endswith("keys set openai --insecure-storage")
    assert out == ""
    assert not (home / "secrets").exists()
    assert run("set", "openai", "--no-test", "--yes", piped=KEY)[0] == Exit.CONFIGURATION


def test_a_key_file_is_private_and_the_index_has_no_key(run: Run, home: Path) -> None:
    save(run, key=f"\ufeff \"'{KEY}'\"\r\n\n")
    for path in (home / "keys", home / "secrets"):
        assert path.stat().st_mode & 0o777 == 0o700
        assert [file.stat().st_mode & 0o777 for file in path.iterdir()] == [0o600]
    index = (home / "keys/openai.json").read_text()
    assert KEY[:-4] not in index
    assert json.loads(index)["last_four"] == "9f3c"
    key = find("openai")
    assert key is not None
    assert key.value == KEY
    assert KEY not in repr(key)
    # The user chose a file for this key, so its replacement goes to a file, too.
    assert run("set", "openai", "--no-test", piped=OTHER)[0] == Exit.DONE
    assert getattr(find("openai"), "value", None) == OTHER


def test_a_file_that_others_can_read_is_refused(run: Run, home: Path) -> None:
    save(run)
    (home / "secrets/openai.json").chmod(0o644)
    with pytest.raises(KeyProblem, match="other users can read") as error:
        find("openai")
    assert error.value.next == f"chmod 600 {home}/secrets/openai.json"


@pytest.mark.parametrize(
    "arguments",
    [
        ["openai", KEY],
        [KEY],
        [f"openai={KEY}"],
        ["openai", f"--key={KEY}"],
        ["openai", "--api-key", KEY],
        ["mybox", "--host", "http://localhost/v1", "0123"],
    ],
)
def test_a_key_on_the_command_line_is_reported_as_leaked_and_not_repeated(
    run: Run, home: Path, arguments: list[str]
) -> None:
    code, out, err = run("set", *arguments, "--no-test", piped=OTHER)
    assert code == Exit.USAGE
    assert "leaked" in err
    assert "Revoke" in err
    assert KEY not in out + err
    assert not home.exists()


@pytest.mark.parametrize("command", ["test", "delete"])
def test_other_commands_do_not_repeat_a_key_either(run: Run, command: str) -> None:
    for arguments in ([KEY], ["openai", KEY]):
        code, out, err = run(command, *arguments)
        assert code == Exit.USAGE
        assert KEY not in out + err


def test_a_closed_standard_input_is_a_normal_error(home: Path) -> None:
    command = f"{sys.executable} -m swarmctl keys set openai --no-test <&-"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == Exit.CONFIGURATION
    assert "no key on standard input" in done.stderr


@pytest.mark.parametrize("text", ["", "  \n", "''", "two words", "one\ntwo", "schlüssel", "x" * 5000, "a\x00b"])
def test_invalid_keys_are_refused_and_not_repeated(run: Run, text: str) -> None:
    code, out, err = run("set", "openai", "--no-test", "--insecure-storage", piped=text)
    assert code == Exit.CONFIGURATION
    assert not text.strip(" \n'") or text not in out + err


def test_a_key_with_another_providers_prefix_needs_confirmation(run: Run) -> None:
    code, _, err = run("set", "openai", "--no-test", "--insecure-storage", piped="sk-ant-0123456789abcdef")
    assert code == Exit.CONFIGURATION
    assert "looks like a key for anthropic, not for openai" in err
    assert err.rstrip().endswith("keys set openai --insecure-storage --yes")
    save(run, "openai", "sk-ant-0123456789abcdef", "--yes")


@pytest.mark.parametrize(
    ("key", "name", "owner"),
    [
        ("sk-proj-1", "openai", None),
        ("sk-1", "deepseek", None),
        ("sk-or-v1-1", "openai", "openrouter"),
        ("sk-or-v1-1", "openrouter", None),
        ("sk-1", "groq", "openai or deepseek"),
        ("gsk_1", "xai", "groq"),
        ("xai-1", "groq", "xai"),
        ("AIza1", "openai", "gemini"),
        ("hf_1", "wandb", "huggingface"),
        ("sk-1", "mybox", None),
        ("sk-1", "litellm", None),
        ("hf_1", "mybox", "huggingface"),
        ("0123abcd", "mistral", None),
    ],
)
def test_prefixes(key: str, name: str, owner: str | None) -> None:
    assert looks_foreign(key, name) == owner


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
    assert out == (
        "my-box: unreadable: key my-box from $SWARMCTL_MY_BOX_API_KEY_FILE has not been used yet, so the server that "
        "it belongs to is unknown\n"
    )
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


@pytest.mark.parametrize(
    "text",
    [
        *("<your-key>", "${OPENAI_API_KEY}", "$OPENAI_API_KEY", "{{ key }}", "[KEY]", "%OPENAI_KEY%", "sk-..."),
        *("sk-xxxxxxxx", "sk-********", "YOUR_KEY", "your-api-key-here", "sk-your-openai-key", "YOUR_HF_TOKEN"),
        *(
            "xxxx",
            "XXXX-XXXX",
            "sk-proj-xxxx",
            "hf_xxx",
            "sk-",
            "hf_",
            "gsk_",
            "sk-proj-",
            "-----",
            "..",
            "####",
            "@KEY@",
        ),
        *("REPLACE_WITH_KEY", "enter_key_here", "add-key-here", "KEY", "token", "N/A", "tbd", "unset", "false", "nil"),
        *("op://vault/openai/key", "file:///run/key", "~/key.txt", "example", 'environ["KEY"]'),
        *("changeme", "replace-me", "OPENAI_API_KEY", "insert-your-key", "placeholder", "None", "TODO"),
    ],
)
def test_placeholders_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    code, _, err = run("set", "mybox", "--host", "http://localhost/v1", "--no-test", "--insecure-storage", piped=text)
    assert code == Exit.CONFIGURATION
    assert "placeholder" in err or " " in text
    monkeypatch.setenv("OPENAI_API_KEY", text)
    with pytest.raises(KeyProblem, match=r"in \$OPENAI_API_KEY"):
        find("openai")


@pytest.mark.parametrize(
    "text",
    [
        *(
            KEY,
            "EMPTY",
            "sk-1234",
            "hf_" + "aB3" * 11,
            "0123456789abcdef" * 4,
            "gsk_yourock9",
            "local",
            "test",
            "dummy",
        ),
        *("secret", "no-key", "none-needed", "sk-master", "abc-def-ghi", "/+Ab9/c==", "a[b", "key1"),
    ],
)
def test_real_keys_are_not_taken_for_placeholders(text: str) -> None:
    assert clean_key(text, "there") == text


def test_hosts() -> None:
    assert host_of("https://API.openai.com:443/v1") == "api.openai.com"
    assert host_of("http://[::1]:8000/v1") == "[::1]:8000"
    clear = ["http://llm.example/v1", "http://8.8.8.8/v1", "http://134744072/v1", "http://0x08080808/v1"]
    safe = ["https://llm.example", "http://localhost:1/v1", "http://127.0.0.1/v1", "http://192.168.1.20/v1"]
    safe += ["http://[::1]/v1", "http://box.local/v1", "http://box:8000/v1"]
    assert [in_the_clear(url) for url in clear + safe] == [True] * len(clear) + [False] * len(safe)


def test_custom_names(run: Run) -> None:
    code, _, err = run("set", "opnai", piped=KEY)
    assert code == Exit.CONFIGURATION
    assert "did you mean openai?" in err
    assert run("set", "mybox", "--host", "ftp://x", piped=KEY)[0] == Exit.USAGE
    assert run("set", "mybox", "--host", "https://me:secret@x/v1", piped=KEY)[0] == Exit.USAGE
    code, _, err = run("set", "mybox", "--host", "http://llm.example/v1", "--no-test", piped=KEY)
    assert code == Exit.CONFIGURATION
    assert "not encrypted" in err


def test_list_as_json(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save(run)
    save(run, "mybox", "shortkey", "--host", "https://llm.example/v1")
    monkeypatch.setenv("OPENAI_API_KEY", OTHER)
    # The file is not even opened: a pipe without a writer would hang.
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setenv("SWARMCTL_GROQ_API_KEY_FILE", str(tmp_path / "fifo"))
    code, out, _ = run("list", "--json")
    assert code == Exit.DONE
    listed = json.loads(out)
    assert listed["schema"] == 1
    groq, mybox, openai = listed["keys"]
    fields = ["name", "host", "last_four", "place", "where", "shadows", "saved", "tested", "result"]
    assert [list(row) for row in listed["keys"]] == [fields] * 3
    assert (groq["place"], groq["last_four"]) == ("key_file", None)
    assert (mybox["host"], mybox["last_four"], mybox["place"]) == ("llm.example", None, "file")
    assert (openai["last_four"], openai["place"]) == ("a1b2", "environment")
    assert openai["shadows"] == [{"place": "file", "where": "0600 file", "last_four": "9f3c"}]
    assert KEY not in out
    assert OTHER not in out
    text = run("list")[1]
    assert "openai  api.openai.com  ····a1b2  $OPENAI_API_KEY" in text
    assert "overrides ····9f3c from 0600 file" in text


def test_delete(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run)
    save(run, "mybox", KEY, "--host", "https://llm.example/v1")
    assert run("delete")[0] == Exit.USAGE
    assert run("delete", "openai", "--all")[0] == Exit.USAGE
    code, _, err = run("delete", "--all")
    assert code == Exit.CONFIGURATION
    assert "keys delete --all --yes" in err
    assert run("delete", "openai")[0] == Exit.DONE
    assert run("delete", "openai")[0] == Exit.CONFIGURATION
    assert run("delete", "--all", "--yes")[0] == Exit.DONE
    assert [*(home / "keys").iterdir(), *(home / "secrets").iterdir()] == []
    monkeypatch.setenv("OPENAI_API_KEY", OTHER)
    assert "key openai comes from $OPENAI_API_KEY" in run("delete", "openai")[2]


def test_what_changes_keys_prints_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = {"name": "openai", "host": "api.openai.com", "last_four": "9f3c", "place": "file", "result": None}
    code, out, _ = run("set", "openai", "--insecure-storage", "--no-test", "--json", piped=KEY)
    assert (code, json.loads(out)) == (Exit.DONE, {"schema": 1, "key": saved})
    code, out, _ = run("delete", "--all", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (Exit.CONFIGURATION, "key")
    code, out, _ = run("delete", "openai", "--json")
    assert (code, json.loads(out)) == (Exit.DONE, {"schema": 1, "deleted": ["openai"], "unbound": []})
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    code, out, _ = run("import", "--no-test", "--insecure-storage", "--json")
    assert (code, json.loads(out)) == (Exit.DONE, {"schema": 1, "keys": [saved], "failed": []})
    monkeypatch.setenv("GROQ_API_KEY", "<your-key>")
    code, out, _ = run("import", "--no-test", "--insecure-storage", "--yes", "--json")
    found = json.loads(out)
    assert (code, found["keys"], [each["name"] for each in found["failed"]]) == (Exit.CONFIGURATION, [saved], ["groq"])
    monkeypatch.delenv("OPENAI_API_KEY")
    code, out, _ = run("import", "--no-test", "--insecure-storage", "--json")
    assert (code, list(json.loads(out))) == (Exit.CONFIGURATION, ["schema", "error"])


def test_import_from_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("import")[0] == Exit.CONFIGURATION
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("GEMINI_API_KEY", "AIza0123456789abcdef")
    monkeypatch.setenv("GOOGLE_API_KEY", "AIza_second_0123456789")
    code, out, err = run("import", "--no-test", "--insecure-storage")
    assert code == Exit.DONE
    assert "  unset OPENAI_API_KEY GEMINI_API_KEY" in err
    assert KEY not in out + err
    monkeypatch.delenv("OPENAI_API_KEY")
    assert getattr(find("openai"), "value", None) == KEY
    assert getattr(find("gemini", pin=LocationKind.FILE), "value", None) == "AIza0123456789abcdef"


@pytest.mark.parametrize("deletes", [True, False])
def test_the_error_for_a_silent_keyring_reports_what_it_may_have_stored(
    run: Run, monkeypatch: pytest.MonkeyPatch, deletes: bool
) -> None:
    stored: set[str] = set()

    def ask(_: Keyring, order: dict[str, str]) -> dict[str, None]:
        if order["do"] == "set":
            stored.add(order["user"])  # but the answer never comes
        if order["do"] == "set" or not deletes:
            raise TimeoutError("within 3 s")
        stored.discard(order["user"])
        return {"key": None}

    monkeypatch.setattr(Keyring, "_ask", ask)
    code, _, err = run("set", "openai", "--no-test", piped=KEY)
    assert code == Exit.CONFIGURATION
    if deletes:
        assert "Nothing was saved." in err
        assert (stored, read_entry("openai")) == (set(), None)
        return
    assert "The keyring may still have stored the key." in err
    assert err.rstrip().endswith("keys delete openai")
    deletes = True
    assert run("delete", "openai")[0] == Exit.DONE
    assert (stored, read_entry("openai")) == (set(), None)


def test_the_error_for_a_replacement_that_times_out_names_both_possible_keys(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Keyring, "_ask", lambda _, order: {"key": order["key"]})
    assert run("set", "openai", "--no-test", piped=KEY)[0] == Exit.DONE

    def silent(*_: object) -> None:
        raise TimeoutError("within 3 s")

    monkeypatch.setattr(Keyring, "_ask", silent)
    err = run("set", "openai", "--no-test", piped=OTHER)[2]
    assert "The keyring has either the previous key or the new one." in err


def test_import_asks_before_it_replaces_a_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run)
    monkeypatch.setenv("OPENAI_API_KEY", OTHER)
    monkeypatch.setenv("GROQ_API_KEY", "gsk_0123456789abcdef")
    code, _, err = run("import", "--no-test", "--insecure-storage")
    assert code == Exit.CONFIGURATION
    assert "Not saved: OPENAI_API_KEY: this would replace the saved key openai ····9f3c; it was kept" in err
    assert getattr(find("openai", pin=LocationKind.FILE), "value", None) == KEY
    assert read_entry("groq") is not None
    assert run("import", "--no-test", "--insecure-storage", "--yes")[0] == Exit.DONE
    assert getattr(find("openai", pin=LocationKind.FILE), "value", None) == OTHER


@pytest.mark.parametrize("in_file", [True, False])
def test_import_without_a_keyring_suggests_itself(
    in_file: bool, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if in_file:
        (tmp_path / "env").write_text(f"OPENAI_API_KEY={KEY}\n")
    else:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
    file = [str(tmp_path / "env")] if in_file else []

    def absent(_self: Keyring, _order: dict[str, str | None]) -> dict[str, str]:
        return {"error": "absent", "message": ""}

    monkeypatch.setattr(Keyring, "_ask", absent)
    code, _, err = run("import", "--no-test", *file)
    assert code == Exit.CONFIGURATION
    error, suggestion = err.splitlines()
    assert error.startswith("error: no keyring")
    again = ["keys", "import", *file, "--insecure-storage"]
    assert suggestion.endswith(f"swarmctl {' '.join(again)}")
    assert run(*again[1:], "--no-test")[0] == Exit.DONE


def test_import_from_a_file_prints_how_to_clean_it(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "my .env"
    path.write_text(
        f"# keys\nPORT=80\nOPENAI_API_KEY=sk-old-0123456789abcdef\nexport OPENAI_API_KEY='{KEY}' # the new one\n"
        'HF_TOKEN = "hf_0123456789abcdef"\nGROQ_API_KEY=\nXAI_API_KEY=gsk_0123456789abcdef\n'
    )
    code, out, err = run("import", str(path), "--no-test", "--insecure-storage")
    assert code == Exit.CONFIGURATION, "one of them was not saved"
    assert "Not saved: XAI_API_KEY: this looks like a key for groq" in err
    assert KEY not in out + err
    assert getattr(find("openai"), "value", None) == KEY
    assert getattr(find("huggingface"), "value", None) == "hf_0123456789abcdef"
    assert "(lines 4, 5)" in err
    command = next(line for line in err.splitlines() if line.startswith("  sed "))
    assert os.system(command) == 0
    assert path.read_text() == "# keys\nPORT=80\nGROQ_API_KEY=\nXAI_API_KEY=gsk_0123456789abcdef\n"
    assert list(tmp_path.glob("*.bak")) == []


def test_no_key_is_left_in_a_childs_environment() -> None:
    kept = {"PATH": "/bin", "SWARMCTL_HOME": "/x", "HF_HOME": "/y", "AZURE_API_KEYS_DIR": "/z"}
    keys = dict.fromkeys(
        [*KEY_VARIABLES, "ANTHROPIC_API_KEY", "SWARMCTL_MY_BOX_API_KEY_FILE", "CREDENTIALS_DIRECTORY"], "x"
    )
    assert without_secrets(kept | keys) == kept
    assert {"HF_TOKEN", "WANDB_API_KEY", "GOOGLE_API_KEY"} <= KEY_VARIABLES


def test_provider_table() -> None:
    assert all(name == row.name and not row.base_url.endswith("/") for name, row in PROVIDERS.items())
    assert all(row.variables and row.base_url.startswith("https://") for row in PROVIDERS.values() if row.needs_key)
    assert all(not in_the_clear(row.base_url) for row in PROVIDERS.values())


def test_only_the_end_of_a_key_is_shown() -> None:
    assert last_four("0123456789ab") == "89ab"
    assert last_four("0123456789a") is None
    assert clean_key("“sk-1”\u200b\n", "there") == "sk-1"
