"""Tab completion in real shells, with scripts installed by ``swarmctl completion install``. No Tab starts swarmctl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmctl.completion import install as completion
from swarmctl.paths import COMPLETIONS
from tests.support import shells
from tests.support.shells import Shell

pytestmark = pytest.mark.slow

SHELLS = ["bash", "bash with bash-completion", "zsh", "fish"]
AWKWARD = "od$(touch pwned)d;`touch pwned` 'x"


@pytest.fixture(params=SHELLS, scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, kind: str) -> Iterator[Path]:
    """A user's home directory with two nodes, some profiles, and names that must not be completed or evaluated."""
    home = tmp_path_factory.mktemp("home")
    for name in ("maths", "spelling", ".hidden"):
        (home / ".local/share/swarmctl/nodes" / name).mkdir(parents=True)
    profiles = home / ".config/swarmctl/profiles"
    profiles.mkdir(parents=True)
    for name in ("mine", "my profile", AWKWARD, "ctrl\nline", "notes.txt"):
        (profiles / (name if name.endswith(".txt") else f"{name}.toml")).touch()
    (home / "demo").mkdir()
    (home / "there.toml").touch()
    yield home
    assert not list(home.rglob("pwned")), "a file name was evaluated"


@pytest.fixture(scope="module")
def shell(kind: str, place: Path) -> Iterator[Shell]:
    started = start(kind, place)
    yield started
    started.close()


def start(kind: str, home: Path, **environment: str) -> Shell:
    """Start a shell that finds the completion script as a user's shell does."""
    name = kind.split(" ", maxsplit=1)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
            patch.delenv(variable, raising=False)
        completion.install(name, yes=False, as_json=False)
        script = completion.places(name)[0]
    match kind:
        case "bash":
            return shells.bash(home, script, **environment)
        case "bash with bash-completion":
            if not shells.BASH_COMPLETION.exists():
                shells.missing("bash-completion")
            return shells.bash(home, shells.BASH_COMPLETION, **environment)
        case "zsh":
            return shells.zsh(home, script.parent, **environment)
    return shells.fish(home, **environment)


def test_first_tab_in_a_new_shell(kind: str, place: Path) -> None:
    fresh = start(kind, place)
    try:
        assert fresh.completes("swarmctl prof") == "swarmctl profiles "
    finally:
        fresh.close()


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("swarmctl stat", "swarmctl status "),
        ("swarmctl profiles val", "swarmctl profiles validate "),
        ("swarmctl profile val", "swarmctl profile validate "),  # an alias that is not suggested
        ("swarmctl run --dry", "swarmctl run --dry-run "),
        ("swarmctl run -p dem", "swarmctl run -p demo "),  # not demo/, which is a directory here
        ("swarmctl run --profile=dem", "swarmctl run --profile=demo "),
        ("swarmctl run --dry-run --profile min", "swarmctl run --dry-run --profile mine "),
        ("swarmctl profiles show min", "swarmctl profiles show mine "),
        ("swarmctl run -p my", "swarmctl run -p my\\ profile "),
        ('swarmctl run -p "my', 'swarmctl run -p "my profile" '),
        ("swarmctl run -p ./th", "swarmctl run -p ./there.toml "),
        ("swarmctl run --node ma", "swarmctl run --node maths "),
        ("swarmctl logs -f --node=sp", "swarmctl logs -f --node=spelling "),
        ("swarmctl run --device mp", "swarmctl run --device mps "),
        ("swarmctl run --task spell_b", "swarmctl run --task spell_backward "),
        ("swarmctl run --set train.bet", "swarmctl run --set train.beta="),
        ("swarmctl run --set model.dtype=bf", "swarmctl run --set model.dtype=bfloat16 "),
        ("swarmctl run --set=model.dtype=bf", "swarmctl run --set=model.dtype=bfloat16 "),
        ("swarmctl profiles new x --from gp", "swarmctl profiles new x --from gpu "),
        ("swarmctl swarm peers --node ma", "swarmctl swarm peers --node maths "),
        ("swarmctl rollouts show ma", "swarmctl rollouts show maths "),
        ("swarmctl rollouts stats --by pro", "swarmctl rollouts stats --by provider "),
        ("swarmctl run --restart on", "swarmctl run --restart on-failure "),
        ("swarmctl run --max-usd u", "swarmctl run --max-usd unlimited "),
        ("swarmctl launch maths --print sl", "swarmctl launch maths --print slurm "),
        ("swarmctl service install maths --print sys", "swarmctl service install maths --print systemd "),
        ("swarmctl completion install fi", "swarmctl completion install fish "),
    ],
)
def test_one_candidate_is_completed(shell: Shell, typed: str, completed: str) -> None:
    assert shell.completes(typed) == completed


@pytest.mark.parametrize("typed", ["swarmctl run -- --pro", "swarmctl profiles list zz", "swarmctl run --rounds 1"])
def test_nothing_is_completed_without_a_match(shell: Shell, typed: str) -> None:
    assert shell.completes(typed) == typed


def test_several_candidates_are_listed(shell: Shell) -> None:
    assert {"run", "profiles", "status", "logs", "completion"} <= shell.lists("swarmctl ")
    assert {"maths", "spelling"} <= shell.lists("swarmctl run --node ")
    assert {"demo", "cpu", "gpu", "mac", "default", "mine"} <= shell.lists("swarmctl run -p ")


def test_hidden_or_non_profile_files_are_not_listed(shell: Shell) -> None:
    assert not shell.lists("swarmctl run -p ") & {"notes.txt", "notes", "ctrl", "line"}
    assert ".hidden" not in shell.lists("swarmctl run --node ")
    assert not shell.lists("swarmctl ") & {"ps", "profile"}


def test_a_name_is_quoted_and_not_evaluated(shell: Shell, place: Path) -> None:
    completed = shell.completes("swarmctl run -p od")
    line = completed.removeprefix("swarmctl run -p ").strip()
    shell.terminal.send("\x15" + f"printf '[%s]' {line}" + "\r")
    assert f"[{AWKWARD}]" in shell.answer()


def test_completion_uses_swarmctl_home(kind: str, place: Path, tmp_path: Path) -> None:
    (tmp_path / "else where/nodes/elsewhere").mkdir(parents=True)
    (tmp_path / "else where/profiles").mkdir()
    (tmp_path / "else where/profiles/other.toml").touch()
    moved = start(kind, place, SWARMCTL_HOME=str(tmp_path / "else where"))
    try:
        assert moved.completes("swarmctl run --node el") == "swarmctl run --node elsewhere "
        assert moved.completes("swarmctl run -p oth") == "swarmctl run -p other "
        assert moved.completes("swarmctl run --node ma") == "swarmctl run --node ma"
    finally:
        moved.close()


@pytest.mark.parametrize("kind", ["bash"], indirect=True)
def test_bash_with_unusual_options(kind: str, place: Path) -> None:
    """Unusual options in ~/.bashrc must not break completion, and completion must not change them."""
    options = place / "options"
    options.write_text("set -u; shopt -s failglob dotglob; IFS=,\n")
    strict = shells.bash(place, COMPLETIONS / "swarmctl.bash", options)
    try:
        assert strict.completes("swarmctl run --node ma") == "swarmctl run --node maths "
        assert strict.completes("swarmctl run -p dem") == "swarmctl run -p demo "
        assert ".hidden" not in strict.lists("swarmctl run --node ")
        strict.terminal.send("\x15shopt failglob; printf '<%s>' \"$IFS\"\r")
        printed = strict.answer()
        assert "on" in printed.split()
        assert "<,>" in printed
    finally:
        strict.close()
    empty = shells.bash(place, COMPLETIONS / "swarmctl.bash", options, SWARMCTL_HOME=str(place / "nothing"))
    try:
        assert empty.completes("swarmctl run --node ") == "swarmctl run --node "
        assert empty.completes("swarmctl run -p dem") == "swarmctl run -p demo "
    finally:
        empty.close()
