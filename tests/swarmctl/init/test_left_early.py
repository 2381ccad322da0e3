"""``swarmctl init`` that is left, fails, or cannot ask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from tests.support.command_line import STAND_IN, write_profile
from tests.support.fake_api.server import ApiServer
from tests.support.init_dialogue import (
    DEMO,
    KEY,
    PLACES,
    Terminal,
    converse,
    ended,
    init,
    written,
)
from tests.support.terminals import end_input, expect_words, interrupt, rest_of, spawn

pytestmark = pytest.mark.usefixtures("no_leftovers")


slow = pytest.mark.slow


@slow
@pytest.mark.parametrize("leave", [interrupt, end_input])
@pytest.mark.parametrize("place", PLACES)
def test_leaving_before_the_profile_is_written_changes_nothing(
    leave: Callable[[Terminal], None], place: str, home: Path, weights: Path, server: ApiServer
) -> None:
    terminal = init(server, OPENAI_API_KEY=KEY, STAND_IN_FINDING="warning")
    for name, answer in {"model": str(weights), "task": "bf", "api": "openai", "cap": "1", "name": "x"}.items():
        expect_words(terminal, PLACES[name])
        if name == place:
            break
        terminal.sendline(answer)
    else:
        expect_words(terminal, PLACES["warning"])
    leave(terminal)
    expect_words(terminal, "\r\nCancelled. Nothing was changed.\r\n")
    rest_of(terminal)
    assert terminal.exitstatus == Exit.INTERRUPTED
    assert not home.exists()


@slow
@pytest.mark.parametrize("leave", [interrupt, end_input])
def test_leaving_after_the_profile_is_written_starts_nothing(leave: Callable[[Terminal], None], home: Path) -> None:
    terminal = init()
    converse(terminal, *DEMO)
    expect_words(terminal, "Start node my-demo now? [Y/n] ")
    leave(terminal)
    expect_words(terminal, "\r\nCancelled. Nothing was started.\r\nTo start the node later:\r\n")
    assert rest_of(terminal).endswith("swarmctl run --profile my-demo\r\n")
    assert terminal.exitstatus == Exit.INTERRUPTED
    assert written(home, "my-demo")["model"]["name"] == "tiny"
    assert not (home / "nodes").exists()


@slow
def test_a_failed_check_ends_with_its_remedy(home: Path) -> None:
    terminal = init(STAND_IN_FINDING="failed")
    converse(terminal, *DEMO)
    expect_words(terminal, "  failed   in: it is slow today")
    code, lines = ended(terminal)
    assert code == Exit.CHECK_FAILED
    failure, remedy, unchanged, again = lines[-4:]
    assert failure == "1 check failed. Start with stand.in:"
    assert remedy.endswith("swarmctl tasks list")
    assert unchanged == "Nothing was changed. After fixing it, run this again:"
    assert again.endswith("swarmctl init")
    assert not home.exists()


@slow
def test_a_profile_that_appears_meanwhile_is_not_overwritten(home: Path) -> None:
    terminal = init(STAND_IN_FINDING="warning")
    converse(terminal, *DEMO)
    expect_words(terminal, PLACES["warning"])
    mine = write_profile(home, "my-demo", "# my work\n")
    terminal.sendline("")
    expect_words(terminal, "already exists.")
    converse(terminal, ("Name of the profile and its node [my-demo-2]: ", ""), ("Start node my-demo-2 now?", "n"))
    assert ended(terminal)[0] == Exit.DONE
    assert mine.read_text() == "# my work\n"
    assert written(home, "my-demo-2")["model"]["name"] == "tiny"


@slow
def test_a_profile_that_cannot_be_written_is_an_error(home: Path) -> None:
    home.mkdir()
    (home / "profiles").write_text("")  # a file where the directory should be
    terminal = init()
    converse(terminal, *DEMO)
    code, lines = ended(terminal)
    assert code == Exit.CONFIGURATION, lines
    assert f"try: mv {home}/profiles " in " ".join(" ".join(lines).split()), lines
    assert not (home / "nodes").exists()


@slow
def test_the_users_profile_of_a_built_in_name_is_not_used(home: Path) -> None:
    write_profile(home, "demo", 'extends = "gpu"\n')
    terminal = init()
    converse(terminal, *DEMO)
    expect_words(terminal, "model     tiny: built locally")
    converse(terminal, ("Start node my-demo now?", "n"))
    assert ended(terminal)[0] == Exit.DONE
    assert written(home, "my-demo")["model"]["name"] == "tiny"


@slow
def test_no_input_on_a_terminal_asks_nothing(home: Path) -> None:
    terminal = spawn([*STAND_IN, "init", "--no-input"])
    text = rest_of(terminal)
    assert terminal.exitstatus == Exit.USAGE
    assert "error: cannot ask questions here (no terminal, or --no-input); use" in text
    assert not home.exists()


def test_without_a_terminal_the_error_names_the_commands_to_use(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["init"]) == Exit.USAGE
    cause, following = capsys.readouterr().err.splitlines()
    assert "swarmctl profiles new NAME` and `" in cause
    assert "swarmctl run --profile NAME` instead" in cause
    assert following.endswith("profiles new --help")
    assert not home.exists()
