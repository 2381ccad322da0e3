"""A trainer that answers one question, such as a dry run's."""

from __future__ import annotations

import os
import re
import signal

import pytest

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from swarmctl.run import trainer_process


def test_a_trainer_that_is_stopped_during_a_dry_run_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_process, "_LOOK_S", 0.05)
    monkeypatch.setenv("STAND_IN", "stopped")
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        if found := re.search(r"To continue it: kill -CONT (\d+)", sentence):
            os.kill(int(found[1]), signal.SIGCONT)

    assert trainer_process.check(Config(), say, "tests.support.fake_trainer")["device"] == "cpu"
    assert said[0].startswith("warning: the trainer (pid ")


def test_an_invalid_address_of_the_hub_is_named_before_the_trainer_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://[bad")
    with pytest.raises(ConfigurationError, match=r"invalid \$HF_ENDPOINT") as error:
        trainer_process.environment(Config())
    assert error.value.next == "unset HF_ENDPOINT"
