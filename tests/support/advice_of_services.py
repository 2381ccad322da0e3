"""States of API servers, models and questions in which a trainer suggests a command."""

from __future__ import annotations

import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from hivemind_exp.node_files import NodeFiles
from tests.support.advice_of_trainers import absent, real, shorter_journal, trained
from tests.support.advice_states import SWARM, wrote
from tests.support.advice_surroundings import Around, busy_port
from tests.support.advised import KEY, State
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.server import api_server
from tests.support.fake_hub import serve_hub


def api(**options: Any) -> Around:
    """Return an API server; it yields its URL. ``options``: as for ``api_server``."""

    @contextmanager
    def serve(_home: Path) -> Iterator[str]:
        with api_server(**options) as server:
            yield server.base_url

    return serve


def failing(fault: Fault) -> Around:
    """Return an API server that fails in one way."""
    return api(fault_rate=1.0, fault_kinds=(fault,))


def limit_files() -> None:
    """Limit the size of files."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def other_rows(home: Path) -> None:
    """Change the rows of a node's second step."""
    with closing(sqlite3.connect(NodeFiles(home / "nodes/maths").journal)) as db, db:
        db.execute("UPDATE manifests SET body='x' WHERE step=1")


def no_checkpoint(home: Path) -> None:
    shutil.rmtree(NodeFiles(home / "nodes/maths").checkpoints)


@contextmanager
def gated(home: Path) -> Iterator[str]:
    with serve_hub({}, ("lab/gated",)) as url:
        yield url


_OFFLOAD = (
    "run -p plain --rounds 1 --set providers.mybox.base_url={it} --set generation.max_completion_tokens=64 "
    "--set offload.provider=mybox --set offload.model=test-model --set offload.fallback=[]"
)
_FREE = f"{_OFFLOAD} --set providers.mybox.free=true"
_RELAY = f"{_FREE} --set offload.kind=relay"  # loads no model
_PAID = f"{_OFFLOAD} --set offload.kind=relay --set offload.prices.mybox.input=2 --set offload.prices.mybox.output=8"
_PLAIN = "run -p plain --rounds 1"
_HUB = {"HF_ENDPOINT": "{it}", "HF_HUB_OFFLINE": "", "HF_HOME": "{here}/hub"}

SERVICE_STATES: tuple[State, ...] = (
    real(_RELAY, around=api(keys=set())),
    real(_RELAY, around=failing(Fault.UNKNOWN_MODEL)),
    real(f"{_PAID} --max-usd 0.0001", around=api()),
    State("run -p demo --offload xai --max-usd 1 --rounds 1", variables={"XAI_API_KEY": KEY}),
    State("run -p demo --offload gemini:gemma-4-31b-it --max-usd 1 --rounds 1", variables={"GEMINI_API_KEY": KEY}),
    real(_RELAY, around=api(), machine=absent("openai")),
    real(f"{_FREE} --set offload.teach=distillation", around=api()),
    # Models.
    real(f"{_PLAIN} --model lab/gated", around=gated, variables=_HUB),
    real("run -p plain --rounds 1", machine=limit_files),
    # Swarms.
    real("run --node tea --rounds 1 --set swarm.port={it}", SWARM.replace("demo", "plain"), around=busy_port),
    # Journals.
    State("replay maths", (trained, wrote("nodes/maths/journal.sqlite", "x" * 5000))),
    State("replay maths", (trained, other_rows)),
    State("replay maths --step 1", (trained, shorter_journal)),
    State("replay maths", (trained, no_checkpoint, shorter_journal)),
    State("export maths {here}/o --gguf", (trained,)),
)
