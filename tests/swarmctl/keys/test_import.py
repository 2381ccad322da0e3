"""``swarmctl keys import``: from variables and files, and what it says if the keyring fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swarmctl.errors import Exit
from swarmctl.keys.finder import LocationKind
from swarmctl.keys.keyring import Keyring
from swarmctl.keys.saved import read_entry
from tests.support.saved_keys import KEY, OTHER, Run, find, save


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


class Freezing:
    """A keyring that stores a key and then, while it is frozen, never answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stored: dict[str, str] = {}
        self.frozen: type[BaseException] | None = None
        monkeypatch.setattr(Keyring, "_ask", lambda _, order: self.ask(order))

    def ask(self, order: dict[str, str]) -> dict[str, str | None]:
        if order["do"] == "set":
            self.stored[order["user"]] = order["key"]
        if self.frozen is not None:
            raise self.frozen
        if order["do"] == "delete":
            self.stored.pop(order["user"], None)
        return {"key": self.stored.get(order.get("user", ""))}


@pytest.mark.parametrize("why", [TimeoutError, KeyboardInterrupt])
@pytest.mark.parametrize("then", ["delete", "set", "set in a file"])
def test_what_a_frozen_keyring_may_have_stored_beside_a_saved_key_is_deleted_later(
    run: Run, monkeypatch: pytest.MonkeyPatch, why: type[BaseException], then: str
) -> None:
    save(run)  # in a file
    keyring = Freezing(monkeypatch)
    keyring.frozen = why
    code, _, err = run("set", "openai", "--no-test", piped=OTHER)
    assert code == (Exit.INTERRUPTED if why is KeyboardInterrupt else Exit.CONFIGURATION)
    assert "The previous key is unchanged, but the keyring may have stored the new one, too." in err
    assert "The next 'keys set' or 'keys delete' of this name deletes that copy." in err
    assert list(keyring.stored.values()) == [OTHER]
    assert getattr(find("openai"), "value", None) == KEY
    if then != "delete":  # still frozen: the copy is not forgotten
        assert run("set", "openai", "--no-test", "--insecure-storage", piped=KEY)[0] == code or why is TimeoutError
    keyring.frozen = None
    arguments = {"delete": ("delete", "openai"), "set": ("set", "openai", "--no-test")}
    command = arguments.get(then, ("set", "openai", "--no-test", "--insecure-storage"))
    assert run(*command, piped=KEY)[0] == Exit.DONE
    entry = read_entry("openai")
    assert list(keyring.stored.values()) == ([KEY] if then == "set" else [])
    assert (entry is None) == (then == "delete")
    assert entry is None or entry.leftovers == ()


def test_a_keyring_that_forgets_suggests_a_file_for_the_same_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Keyring, "_ask", lambda *_: {"key": None})
    code, _, err = run("set", "mybox", "--host", "https://llm.example/v1", "--no-test", piped=KEY)
    assert code == Exit.CONFIGURATION
    assert err.rstrip().endswith("keys set mybox --insecure-storage --host https://llm.example/v1")


def test_interrupting_a_first_set_leaves_a_key_that_can_be_deleted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = Freezing(monkeypatch)
    keyring.frozen = KeyboardInterrupt
    code, _, err = run("set", "openai", "--no-test", piped=KEY)
    assert code == Exit.INTERRUPTED
    assert "The keyring may have stored the key. To delete it:\n" in err
    keyring.frozen = None
    assert run("delete", "openai")[0] == Exit.DONE
    assert (keyring.stored, read_entry("openai")) == ({}, None)


@pytest.mark.parametrize("why", [TimeoutError, KeyboardInterrupt])
def test_a_replacement_that_ends_early_leaves_one_of_two_keys_and_does_not_say_which(
    run: Run, monkeypatch: pytest.MonkeyPatch, why: type[BaseException]
) -> None:
    keyring = Freezing(monkeypatch)
    assert run("set", "openai", "--no-test", piped=KEY)[0] == Exit.DONE
    keyring.frozen = why
    err = run("set", "openai", "--no-test", piped=OTHER)[2]
    assert "The keyring has either the previous key or the new one." in err
    assert "unchanged" not in err
    if why is KeyboardInterrupt:
        said = err.splitlines()
        place = said.index("The keyring has either the previous key or the new one. To be sure, save the key again:")
        assert said[place + 1].endswith("swarmctl keys set openai")
    entry = read_entry("openai")
    assert entry is not None
    assert (entry.last_four, entry.tested) == (None, None), "unknown"
    assert f"····{KEY[-4:]}" not in run("list")[1]
    keyring.frozen = None
    assert run("set", "openai", "--no-test", piped=OTHER)[0] == Exit.DONE
    assert getattr(find("openai"), "value", None) == OTHER


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
    assert "error: 1 of 3 keys was not saved\n" in err
    assert KEY not in out + err
    assert getattr(find("openai"), "value", None) == KEY
    assert getattr(find("huggingface"), "value", None) == "hf_0123456789abcdef"
    assert "(lines 4, 5)" in err
    command = next(line for line in err.splitlines() if line.startswith("  sed "))
    assert os.system(command) == 0
    assert path.read_text() == "# keys\nPORT=80\nGROQ_API_KEY=\nXAI_API_KEY=gsk_0123456789abcdef\n"
    assert list(tmp_path.glob("*.bak")) == []
