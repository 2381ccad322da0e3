"""``swarmctl run`` with a hub to push to: from the command to the files on the hub."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from swarmctl.errors import Exit
from tests.support.command_line import UNTRAINED, Cli, write_profile
from tests.support.fake_hub_uploads import TOKEN, Account, uploads
from tests.support.forked_swarmctl import ForkedSwarmctl
from tests.support.patience import finish

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_leftovers")]

PROFILE = f"""{UNTRAINED}
[game]
rounds = 4
groups = 2
[hub]
repo = "me/mine"
"""


@pytest.fixture(autouse=True)
def _profile(home: Path) -> None:
    write_profile(home, "pushing", PROFILE)


def start(place: Path, url: str, *arguments: str) -> ForkedSwarmctl:
    environment = {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    return ForkedSwarmctl(["run", "--profile", "pushing", "--plain", *arguments], environment, place)


def run(place: Path, url: str, *arguments: str) -> tuple[int, str]:
    process = start(place, url, *arguments)
    try:
        _, said = finish(process, 120)
    finally:
        process.kill()
    assert [left.cmdline() for left in process.left()] == []
    return process.wait(), said


def test_an_adapter_every_two_rounds_with_its_card(home: Path, tmp_path: Path) -> None:
    account = Account()
    with uploads(account) as url:
        code, said = run(tmp_path, url, "--set", "hub.every=2", "--set", "model.lora.rank=2")
    assert code == Exit.DONE, said
    assert account.commits == ["After round 2", "After round 4"]
    assert "The node pushes its model, with a card" in said
    assert "to me/mine on the hub (private if new) every 2 rounds and after the last round." in said
    assert f"Pushed: {url}/me/mine/commit/" in said
    files = account.repos["me/mine"]
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(files)
    card = ModelCard(files["README.md"].decode())
    assert card.data.to_dict()["library_name"] == "peft"
    assert "4 rounds (4 optimizer steps) of 2 questions" in card.text
    assert not any(str(home).encode() in content or b"journal" in content for content in files.values())
    events = [json.loads(line) for line in (home / "nodes/pushing/events.jsonl").read_text().splitlines()]
    assert [event["round"] for event in events if event["event"] == "push"] == [2, 4]


def test_a_failing_hub_does_not_stop_the_run_and_the_next_run_pushes(home: Path, tmp_path: Path) -> None:
    with uploads(Account(role="read")) as url:
        code, said = run(tmp_path, url)
    assert code == Exit.DONE, said
    assert "warning: cannot push to me/mine yet: the hub rejected the token (HTTP 403)" in said
    assert "warning: cannot push the model of round 4 to me/mine" in said
    account = Account()
    with uploads(account) as url:
        assert run(tmp_path, url)[0] == Exit.DONE
    assert account.commits == ["After round 4"]
    steps = (home / "nodes/pushing/events.jsonl").read_text().count('"event": "step"')
    assert steps == 4, "nothing was trained again"


def test_ctrl_c_does_not_wait_for_the_hub(home: Path, tmp_path: Path) -> None:
    account = Account(wait=threading.Event())
    with uploads(account) as url:
        process = start(tmp_path, url)
        while not any(b"/commit/" in sent for _, _, sent in account.shown):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = finish(process, 30)
        assert process.wait() == Exit.INTERRUPTED, said
        assert [left.cmdline() for left in process.left()] == []
        assert account.wait is not None
        account.wait.set()
        assert run(tmp_path, url)[0] == Exit.DONE
    assert (home / "nodes/pushing/hub/pushed.json").exists()
    assert [path.name for path in (home / "nodes/pushing/hub").iterdir()] == ["pushed.json"]


@pytest.mark.parametrize(
    ("given", "cause", "following"),
    [
        ({}, "pushing to hub.repo needs a token with write access, but no token was found", "keys set huggingface"),
        ({"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE prevents pushing", "unset HF_HUB_OFFLINE"),
    ],
)
def test_without_a_token_or_a_hub_nothing_starts(
    stand_in: Cli, home: Path, given: dict[str, str], cause: str, following: str
) -> None:
    done = stand_in("run", "--profile", "pushing", **({"HF_HUB_OFFLINE": "0"} | given))
    assert done.returncode == Exit.CONFIGURATION
    assert cause in done.stderr
    assert done.stderr.rstrip().endswith(following)
    assert not (home / "nodes").exists()


def test_a_saved_token_is_not_sent_to_another_hub(stand_in: Cli, tmp_path: Path) -> None:
    (tmp_path / "no-token").write_text(TOKEN)  # where the hub's tools store it
    done = stand_in("run", "--profile", "pushing", HF_ENDPOINT="https://mirror.example", HF_HUB_OFFLINE="0")
    assert done.returncode == Exit.CONFIGURATION
    assert "belongs to https://huggingface.co and is not sent to https://mirror.example" in done.stderr
    assert done.stderr.rstrip().endswith("unset HF_ENDPOINT")


def test_pushing_without_a_last_round_needs_an_interval(stand_in: Cli) -> None:
    done = stand_in("run", "--profile", "pushing", "--rounds", "0", HF_TOKEN=TOKEN)
    assert done.returncode == Exit.CONFIGURATION
    assert "hub.repo needs hub.every or game.rounds" in done.stderr


def test_a_dry_run_lists_what_would_be_pushed(stand_in: Cli) -> None:
    done = stand_in("run", "--profile", "pushing", "--dry-run", HF_TOKEN=TOKEN)
    assert "push      the model to me/mine on the hub (private if new) after the last round\n" in done.stdout
