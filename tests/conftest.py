"""Fixtures that the tests of both packages share."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_timeout import timeout_sigalrm

from hivemind_exp.processes.imports import uncollected
from tests.support.fake_api.transformers_server import TransformersServer, transformers_server
from tests.support.patience import Patience
from tests.support.python_template import VARIABLE, ForkedPython

# Several tests run at a time on a few cores, so one thread per process is enough, and threads that wait should sleep.
# OpenMP reads both when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# No hub, and no warnings about experimental parts of TRL. Their libraries read both when they are imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

# If a script starts a job in the background, the shell makes it ignore SIGINT, and its child processes inherit that.
# Tests press Ctrl-C, so they need the default. ``test_stops`` covers such a job.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup makes them ignore this one


TICK_S = 5.0
"""Seconds between two looks at a test's time limit."""


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """Limit a test as pytest-timeout does, but count its seconds as ``Patience`` does."""
    patience = Patience(settings.timeout)

    def look(*_: object) -> None:
        if patience.is_over():
            timeout_sigalrm(item, settings)

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel  # type: ignore[attr-defined] - called by pytest-timeout
    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, TICK_S, TICK_S)
    return True


LONGEST_FIRST = (
    "swarmctl/test_advice.py",
    "swarmctl/packages/test_conversations.py",
    "swarmctl/packages/test_environments.py",
    "test_demo.py",
    "swarmctl/trained/test_gguf_loads.py",
    "hivemind_exp/swarm/test_under_attack.py",
    "swarmctl/test_broken_surroundings.py",
    "swarmctl/run/test_killed_and_frozen.py",
    "test_recipes.py",
    "hivemind_exp/swarm/test_splits.py",
    "swarmctl/run/test_with_trainer.py",
    "swarmctl/keys/test_no_key_leaks.py",
    "test_install.py",
    "swarmctl/run/test_keep_running.py",
    "swarmctl/nodes/test_inputs.py",
    "hivemind_exp/tasks/workers/test_pool.py",
    "hivemind_exp/tasks/workers/test_hostile_environment.py",
    "swarmctl/run/test_offload.py",
    "hivemind_exp/swarm/test_chaos.py",
    "swarmctl/swarm/test_real_nodes.py",
    "swarmctl/completion/test_shells.py",
    "swarmctl/init/test_init.py",
    "hivemind_exp/offload/test_engine.py",
    "swarmctl/run/test_fetch_smollm2.py",
    "hivemind_exp/tasks/families/test_reasoning_gym.py",
    "hivemind_exp/swarm/test_node.py",
    "hivemind_exp/runner/test_canary_swarm.py",
    "hivemind_exp/runner/test_lost_workers.py",
    "hivemind_exp/runner/test_resume.py",
    "swarmctl/keys/test_keyring.py",
    "swarmctl/terminal/test_hidden_input.py",
    "hivemind_exp/trainer/test_micro_batches.py",
    "test_examples.py",
    "hivemind_exp/runner/test_swarm_curriculum.py",
    "test_every_setting.py",
    "hivemind_exp/sources/test_policy_server.py",
    "swarmctl/run/test_run.py",
    "swarmctl/launch/test_launch.py",
    "swarmctl/init/test_left_early.py",
    "hivemind_exp/game/study_group/test_alone.py",
    "swarmctl/swarm/test_swarm.py",
    "swarmctl/run/test_processes.py",
)
"""Files that take about half a minute or more. They start first: one that starts last runs alone, while others idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the tests of the longest files to the front."""
    here = Path(__file__).parent
    ranks = {here / name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Start the workers as forks of one process that has imported the libraries (see ``python_template``)."""
    forked = ForkedPython()
    config.add_cleanup(forked.close)
    for spec in specs:
        spec.python = forked.program
        spec.env[VARIABLE] = forked.program


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Pause the garbage collector while test modules import the libraries, in each process of the run."""
    with uncollected():
        return (yield)


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersServer]:
    """One ``transformers serve`` for all tests, started by the first test that uses it."""
    with transformers_server(tmp_path_factory.mktemp("transformers")) as server:
        yield server
