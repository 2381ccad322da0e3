"""Push to a stand-in for the hub: what arrives, how failures are handled, and that nothing is lost or sent twice."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.hub.pusher import Outbox
from tests.support.fake_hub_uploads import TOKEN, Account, uploads
from tests.support.patience import wait_for_end
from tests.support.push_once import ForkedPusher

WEIGHTS = os.urandom(300_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A node's directory with one adapter, as saved in a checkpoint."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "adapter_model.safetensors").write_bytes(WEIGHTS)
    saved = {"base_model_name_or_path": f"{tmp_path}/base", "r": 4}
    (model / "adapter_config.json").write_text(json.dumps(saved))
    (model / "README.md").write_text("made by peft")
    return tmp_path


def start(root: Path, url: str, *rounds: int, token: str = TOKEN, **more: str) -> ForkedPusher:
    environment = {"HF_ENDPOINT": url, "HF_HOME": f"{root}/hf", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"} | more
    process = ForkedPusher(os.environ | environment, root, rounds)
    process.stdin.write(f"{token}\n".encode())
    process.stdin.flush()
    return process


def push(root: Path, url: str, *rounds: int, **how: str) -> list[dict[str, Any]]:
    """Push and return the events, without the phases."""
    process = start(root, url, *rounds, **how)
    lines = [json.loads(line) for line in process.stdout]
    assert wait_for_end(process) == 0
    return [line for line in lines if line["event"] != "phase"]


@pytest.mark.slow
@pytest.mark.parametrize("xet", [False, True])
def test_model_and_card_arrive_and_nothing_else(root: Path, xet: bool) -> None:
    account = Account(xet=root / "xet" if xet else None)
    with uploads(account) as url:
        events = push(root, url, 3, HF_HUB_DISABLE_XET="0" if xet else "1")
        assert [(each["event"], each["round"], each["repo"]) for each in events] == [("push", 3, "me/mine")]
        assert events[0]["url"] == f"{url}/me/mine/commit/{1:040x}"
    files = account.repos["me/mine"]
    assert set(files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert files["README.md"].endswith(b"\nround 3\n")
    assert json.loads(files["adapter_config.json"]) == {"base_model_name_or_path": "lab/base", "r": 4}
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert files["adapter_model.safetensors"] == (b"xet:" + digest.encode() if xet else WEIGHTS)
    assert account.private == {"me/mine": True}
    # The checkpoint is unchanged, and no second copy remains.
    assert (root / "model/README.md").read_text() == "made by peft"
    assert str(root) in (root / "model/adapter_config.json").read_text()
    assert [path.name for path in (root / "hub").iterdir()] == ["pushed.json"]


@pytest.mark.slow
def test_the_token_is_sent_only_to_the_hub_and_only_as_a_header(root: Path) -> None:
    account = Account()
    with uploads(account) as url:
        push(root, url, 1)
    assert {server for server, _, _ in account.shown} == {"hub", "storage"}
    assert {(server, shown) for server, shown, _ in account.shown if shown} == {("hub", f"Bearer {TOKEN}")}
    assert not any(TOKEN.encode() in sent for _, _, sent in account.shown)
    assert not any(TOKEN.encode() in path.read_bytes() for path in root.rglob("*") if path.is_file())


@pytest.mark.slow
def test_what_was_pushed_is_not_pushed_again(root: Path) -> None:
    account = Account()
    with uploads(account) as url:
        assert [each["round"] for each in push(root, url, 1)] == [1]
        sent = len(account.shown)
        assert push(root, url, 1) == []
        assert [path for _, _, path in account.shown[sent:] if b"/commit/" in path] == []
        assert [each["round"] for each in push(root, url, 2)] == [2]
    assert account.commits == ["After round 1", "After round 2"]
    assert len(account.stored) == 1, "the weights had not changed"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("account", "reason"),
    [
        (Account(token="hf_another"), "the hub rejected the token (HTTP 401)"),
        (Account(role="read"), "the hub rejected the token (HTTP 403)"),
        (Account(refuse={"/commit/": 400}), "the hub responded with HTTP 400: refused"),
        (None, "cannot reach the hub"),
    ],
    ids=["unknown", "read-only", "refused", "down"],
)
def test_a_failed_push_is_a_warning_and_is_retried_by_the_next_run(
    root: Path, account: Account | None, reason: str
) -> None:
    with uploads(account or Account()) as url:
        events = push(root, url if account else "http://127.0.0.1:9", 1)
    assert {each["event"] for each in events} == {"warning"}
    assert {each["code"] for each in events} == {"push_failed"}
    assert reason in events[-1]["message"]
    assert "cannot push the model of round 1 to me/mine" in events[-1]["message"]
    assert TOKEN not in json.dumps(events)
    good = Account()
    with uploads(good) as url:
        assert [each["round"] for each in push(root, url)] == [1]
    assert good.repos["me/mine"]["adapter_model.safetensors"] == WEIGHTS


@pytest.mark.slow
def test_a_push_that_was_killed_or_stopped_is_retried_by_the_next_run(root: Path) -> None:
    account = Account(wait=threading.Event())
    with uploads(account) as url:
        process = start(root, url, 4)
        while not any(b"/commit/" in sent for _, _, sent in account.shown):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.wait()
        stopped = start(root, url)
        stopped.stdin.close()
        assert json.loads(stopped.stdout.read().splitlines()[-1]) == {"event": "stopped"}
        assert account.wait is not None
        account.wait.set()
        assert [each["round"] for each in push(root, url)] == [4]


@pytest.mark.slow
def test_only_the_newest_of_several_models_is_pushed(root: Path) -> None:
    outbox, account = Outbox(root / "hub"), Account()
    for round_ in (1, 2, 3):
        outbox.pack(round_, root / "model", f"---\ntags: []\n---\nround {round_}\n", "lab/base")
    with uploads(account) as url:
        assert [each["round"] for each in push(root, url)] == [3]
    assert account.commits == ["After round 3"]
    assert [path.name for path in (root / "hub").iterdir()] == ["pushed.json"]


def test_a_waiting_model_is_hard_linked_to_its_checkpoint(root: Path) -> None:
    outbox = Outbox(root / "hub")
    outbox.pack(7, root / "model", "card", "lab/base")
    parcel = outbox.parcels()[7]
    assert (parcel / "adapter_model.safetensors").stat().st_nlink == 2
    assert (parcel / "README.md").stat().st_nlink == 1
    assert outbox.holds(7, "any/repo")
    outbox.done(7, "me/mine")
    assert outbox.parcels() == {}
    assert outbox.holds(7, "me/mine")
    assert not outbox.holds(7, "me/other")
    (root / "hub/.partial-00000009").mkdir()
    Outbox(root / "hub")
    assert not (root / "hub/.partial-00000009").exists()
