"""``swarmctl keys`` without a keyring: which keys are accepted or refused, and which take precedence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hivemind_exp.errors import KeyProblem
from hivemind_exp.providers import KEY_VARIABLES, PROVIDERS
from hivemind_exp.secrets import without_secrets
from swarmctl.errors import Exit
from swarmctl.keys.key_text import clean_key, host_of, in_the_clear, last_four, looks_foreign
from tests.support.command_line import ROOT
from tests.support.saved_keys import KEY, OTHER, Run, find, save


@pytest.mark.slow
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


@pytest.mark.slow
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
        *("REDACTED", "sk-proj-redacted", "sk-PASTE_HERE"),
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
        "OPENAI_API_KEY=sk-0123456789abcdef0123",
        "export HF_TOKEN='hf_0123456789abcdef0123'",
        "Authorization: Bearer sk-0123456789abcdef0123",
        "Bearer sk-0123456789abcdef0123",
    ],
)
def test_a_whole_line_around_a_key_is_refused_with_the_reason(run: Run, text: str) -> None:
    code, _, err = run("set", "openai", "--no-test", "--insecure-storage", piped=text)
    assert (code, "enter only the key" in err, "0123456789" in err) == (Exit.CONFIGURATION, True, False)


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
    assert run("set", "mybox", "--host", "http://0177.0.0.1", piped=KEY)[0] == Exit.USAGE
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
