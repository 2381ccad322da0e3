"""Keys in a real Secret Service: a working one, a locked one, and one that never answers."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pexpect
import pytest

from hivemind_exp.errors import KeyProblem
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.keys.finder import KeyFinder
from swarmctl.keys.keyring import Keyring, KeyringLocked
from swarmctl.keys.saved import read_entry, write_entry
from swarmctl.terminal.prompter import Prompter
from tests.support import fake_keyrings as keyrings
from tests.support.command_line import ROOT, SWARMCTL
from tests.support.fake_services import GOOD, service
from tests.support.terminals import rest_of, spawn

pytestmark = pytest.mark.slow

KEY = "sk-test-0123456789abcd9f3c"
USER = "openai@api.openai.com"
ON_HUB = ["-p", "demo", "--model", "lab/private-model", "--set", "warmup.steps=0"]


@pytest.fixture(scope="module")
def desktop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A session with an unlocked keyring."""
    with keyrings.bus(tmp_path_factory.mktemp("desktop") / "user") as session, keyrings.unlocked(session):
        yield session


@pytest.fixture
def keyring(desktop: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Use the desktop session's keyring."""
    return enter(desktop, monkeypatch)


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Use a session whose keyring never answers."""
    with keyrings.bus(tmp_path / "user") as session, keyrings.silent(session):
        yield enter(session, monkeypatch)


def enter(session: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in session.items():
        monkeypatch.setenv(name, value)
    return session


def keys(monkeypatch: pytest.MonkeyPatch, *arguments: str, piped: str = "") -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(piped))
    return cli.run(["keys", *arguments])


def value_of(name: str) -> str | None:
    key = KeyFinder(Prompter(silent=True), os.environ).find(name)
    return None if key is None else key.value


def terminal(*arguments: str, **environment: str) -> pexpect.spawn[str]:
    own = os.environ | {"TERM": "dumb"} | environment
    return spawn([*SWARMCTL, "keys", *arguments], environment=own, rows=40, timeout=15)


def test_a_key_is_written_read_and_deleted(
    keyring: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert keys(monkeypatch, "set", "openai", "--no-test", piped=KEY) == Exit.DONE
    assert "Saved key openai ····9f3c for api.openai.com in the keyring." in capsys.readouterr().err
    assert keyrings.look_up(keyring, USER) == KEY
    assert not (home / "secrets").exists()
    assert value_of("openai") == KEY
    keys(monkeypatch, "list", "--json")
    (row,) = json.loads(capsys.readouterr().out)["keys"]
    assert (row["place"], row["last_four"]) == ("keyring", "9f3c")
    assert keys(monkeypatch, "set", "openai", "--no-test", piped=KEY + "2222") == Exit.DONE
    assert keyrings.look_up(keyring, USER) == KEY + "2222"
    assert keys(monkeypatch, "delete", "openai") == Exit.DONE
    assert keyrings.look_up(keyring, USER) == ""
    assert value_of("openai") is None


def test_a_key_that_moves_leaves_no_copy(keyring: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys(monkeypatch, "set", "openai", "--no-test", piped=KEY)
    keys(monkeypatch, "set", "openai", "--no-test", "--insecure-storage", piped=KEY)
    assert keyrings.look_up(keyring, USER) == ""
    assert (home / "secrets/openai.json").exists()
    keys(monkeypatch, "set", "openai", "--no-test", piped=KEY)
    assert keyrings.look_up(keyring, USER) == KEY
    assert not (home / "secrets/openai.json").exists()
    for url in ("https://one.example/v1", "https://two.example/v1"):
        keys(monkeypatch, "set", "mybox", "--no-test", "--host", url, piped=KEY)
    assert keyrings.look_up(keyring, "mybox@one.example") == ""
    assert keyrings.look_up(keyring, "mybox@two.example") == KEY
    keys(monkeypatch, "delete", "--all", "--yes")
    assert [keyrings.look_up(keyring, user) for user in (USER, "mybox@two.example")] == ["", ""]


def test_a_key_deleted_outside_swarmctl_is_reported(keyring: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    keys(monkeypatch, "set", "openai", "--no-test", piped=KEY)
    Keyring(Prompter(silent=True)).delete("openai", "api.openai.com")
    with pytest.raises(KeyProblem, match="no longer in the keyring") as error:
        value_of("openai")
    assert error.value.next == "swarmctl keys set openai"


def test_with_a_key_in_the_environment_the_keyring_is_not_used(
    keyring: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys(monkeypatch, "set", "openai", "--no-test", piped=KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other-0123456789a1b2")
    monkeypatch.setattr("swarmctl.keys.keyring.Keyring._call", lambda *_: pytest.fail("the keyring was used"))
    key = KeyFinder(Prompter(silent=True), os.environ).find("openai")
    assert key is not None
    assert key.reason == "····a1b2 from $OPENAI_API_KEY (overrides ····9f3c from keyring)"


def test_only_the_systems_own_keyring_is_used(keyring: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    # The null backend accepts a key and forgets it. The keyring library itself would follow this variable.
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    assert keys(monkeypatch, "set", "openai", "--no-test", piped=KEY) == Exit.DONE
    assert keyrings.look_up(keyring, USER) == KEY


@pytest.mark.parametrize(
    ("state", "finding", "expected"),
    [
        ("absent", "skipped: no keyring on this machine", "no keyring is available in this session"),
        ("unlocked", "ok: SecretService, unlocked", "Saved key openai ····9f3c for api.openai.com in the keyring."),
        ("locked", "warning: SecretService is locked", "the keyring is locked"),
        ("silent", "unknown: the keyring did not respond within 3 s", "the keyring did not respond within 3 s"),
    ],
)
def test_doctor_finds_the_keyring_that_set_uses(  # noqa: PLR0917 - pytest passes them by name
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    state: str,
    finding: str,
    expected: str,
) -> None:
    # Neither command follows a variable or a file that selects another backend.
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config/python_keyring").mkdir(parents=True)
    rc = tmp_path / "config/python_keyring/keyringrc.cfg"
    rc.write_text("[backend]\ndefault-keyring = keyring.backends.null.Keyring\n")
    with ExitStack() as stack:
        if state != "absent":
            session = stack.enter_context(keyrings.bus(tmp_path / "user"))
            start = keyrings.silent if state == "silent" else keyrings.unlocked
            stack.enter_context(start(session))
            if state == "locked":
                keyrings.lock(session)
            enter(session, monkeypatch)
        cli.run(["doctor", "keys.keyring", "-p", "demo", "--json"])
        (row,) = json.loads(capsys.readouterr().out)["checks"]
        code = keys(monkeypatch, "set", "openai", "--no-test", piped=KEY)
    assert f"{row['status']}: {row['finding']}".startswith(finding)
    assert expected in capsys.readouterr().err
    assert code == (Exit.DONE if state == "unlocked" else Exit.CONFIGURATION)


def test_a_locked_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with keyrings.bus(tmp_path / "user") as session, keyrings.unlocked(session):
        enter(session, monkeypatch)
        for name in ("openai", "huggingface"):
            assert keys(monkeypatch, "set", name, "--no-test", "--yes", piped=KEY) == Exit.DONE
        capsys.readouterr()
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        keyrings.lock(session)
        with pytest.raises(KeyringLocked, match="set OPENAI_API_KEY") as error:
            value_of("openai")
        for command in (["test", "openai"], ["delete", "openai"], ["set", "openai", "--no-test"]):
            assert keys(monkeypatch, *command, piped=KEY) == Exit.CONFIGURATION
            err = capsys.readouterr().err
            assert "the keyring is locked" in err
            assert "  try: " in err
        assert read_entry("openai") is not None
        assert cli.run(["run", *ON_HUB]) == Exit.CONFIGURATION
        assert "the keyring is locked" in capsys.readouterr().err
        assert not (tmp_path / "home/nodes").exists(), "the error comes before anything is created"
        assert not (tmp_path / "home/secrets").exists()
        assert error.value.next is not None
        # The daemon started here stays in the background: do not wait for its streams.
        subprocess.run(
            ["bash", "-c", error.value.next],
            input="password of the test\n",
            stdout=subprocess.DEVNULL,
            text=True,
            check=True,
        )
        assert value_of("openai") == KEY


def test_a_keyring_that_was_never_unlocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with keyrings.bus(tmp_path / "user") as session:  # D-Bus starts the keyring, without a password
        enter(session, monkeypatch)
        assert keys(monkeypatch, "set", "openai", "--no-test", piped=KEY) == Exit.CONFIGURATION
        assert "keyring" in capsys.readouterr().err
        assert not (tmp_path / "home").exists()


def test_a_keyring_that_never_answers(
    silent: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = subprocess.run(
        [*SWARMCTL, "keys", "set", "openai", "--no-test"],
        cwd=ROOT, input=KEY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == Exit.CONFIGURATION
    assert "did not respond within 3 s" in done.stderr
    assert "may still have stored the key" in done.stderr
    assert done.stderr.endswith("keys delete openai\n")
    assert read_entry("openai") is not None
    assert not (home / "secrets").exists()


def test_waiting_for_the_keyring_is_shown_on_a_terminal(silent: dict[str, str]) -> None:
    child = terminal("set", "openai", "--no-test")
    child.expect("not shown: ")
    child.sendline(KEY)
    child.expect("Waiting up to 60 s for the keyring: it may be showing a dialog")
    child.sendintr()
    rest_of(child)
    assert child.exitstatus == Exit.INTERRUPTED
    assert KEY not in str(child.before)


def test_without_a_keyring_import_asks_once_about_all_keys(home: Path, tmp_path: Path) -> None:
    keys = tmp_path / "env"
    keys.write_text(f"OPENAI_API_KEY={KEY}\nHF_TOKEN=hf_0123456789abcdef\n")
    child = terminal("import", str(keys), "--no-test")
    child.expect(r"\[y/N\] ")
    child.sendline("n")
    said = rest_of(child)
    assert child.exitstatus == Exit.INTERRUPTED
    assert said.splitlines()[1:] == ["Not saved: OPENAI_API_KEY", "Not saved: HF_TOKEN", "2 of 2 keys were not saved."]


def test_without_a_keyring_a_terminal_is_asked_about_a_file(home: Path) -> None:
    for answer, code in (("n", Exit.INTERRUPTED), ("y", Exit.DONE)):
        child = terminal("set", "openai", "--no-test")
        child.expect(r"Store keys in\s+a\s+file .*\[y/N\] ")
        child.sendline(answer)
        before = ""
        if answer == "y":  # otherwise it does not ask for the key
            child.expect("not shown: ")
            before = str(child.after)
            child.sendline(f" '{KEY}' ")
        rest_of(child)
        assert child.exitstatus == code
        assert KEY not in before + str(child.before)
        assert (home / "secrets/openai.json").exists() == (code == Exit.DONE)


@pytest.mark.parametrize("pasted", [KEY, "0123456789abcdef0123456789abcdef", "yZ-0123456789abcdef"])
def test_a_key_pasted_at_a_question_is_not_shown_and_the_question_is_asked_again(home: Path, pasted: str) -> None:
    child = terminal("set", "openai", "--no-test")
    child.expect(r"Store keys in\s+a\s+file .*\[y/N\] ")
    child.sendline(pasted)
    child.expect(r"Store keys in\s+a\s+file .*\[y/N\] ")
    said = str(child.before)
    told = "That may be a key, so it was not shown. Type a key only at a hidden prompt. Answer y or n."
    assert told in " ".join(said.split())
    assert pasted[1:] not in said, "only the first letter of yes is shown"
    child.sendline("y")
    child.expect("not shown: ")
    child.sendline(KEY)
    said = rest_of(child)
    assert child.exitstatus == Exit.DONE
    assert pasted not in said
    assert (home / "secrets/openai.json").exists()


def test_a_wrong_prefix_is_asked_about_on_a_terminal(home: Path) -> None:
    child = terminal("set", "openai", "--no-test", "--insecure-storage")
    child.expect("not shown: ")
    child.sendline("gsk_0123456789abcdef")
    child.expect(r"looks like a key for groq, .*\[y/N\] ")
    child.sendline("")
    rest_of(child)
    assert child.exitstatus == Exit.INTERRUPTED
    assert not home.exists()


def test_interrupting_the_prompt_changes_nothing(home: Path) -> None:
    for key, code in ((pexpect.spawn.sendintr, 130), (pexpect.spawn.sendeof, 130)):
        child = terminal("set", "openai", "--insecure-storage")
        child.expect("not shown: ")
        key(child)
        child.expect(r"^\r\nInterrupted\.")
        rest_of(child)
        assert child.exitstatus == code
    assert not home.exists()


def test_testing_a_key_from_the_keyring(keyring: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with service() as server:
        assert keys(monkeypatch, "set", "mybox", "--host", server.url, piped=GOOD) == Exit.DONE
        assert keys(monkeypatch, "test") == Exit.DONE
        assert [authorization for _, authorization in server.asked] == [f"Bearer {GOOD}"] * 2
        # A manipulated index finds no key: keys are stored under their host's name.
        entry = read_entry("mybox")
        assert entry is not None
        host = f"127.0.0.1:{server.server_port + 1}"
        write_entry(type(entry)("mybox", f"http://{host}/v1", host, "cdef", "keyring", entry.saved))
        assert keys(monkeypatch, "test", "mybox") == Exit.CONFIGURATION
        assert len(server.asked) == 2
