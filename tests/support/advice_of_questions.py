"""States of questions, task workers and swarms in which a command suggests another."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.charter import MILLION, CharterTask
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.tasks.installed import installed_tasks
from tests.support.advice import with_workers
from tests.support.advice_of_commands import invited
from tests.support.advice_of_doctor import library, with_libraries
from tests.support.advice_of_models import LOOP, hurried
from tests.support.advice_of_trainers import TEMPLATE, real, run_real, template
from tests.support.advice_states import QUESTIONS, SWARM, wrote
from tests.support.advice_surroundings import Around
from tests.support.advised import State
from tests.support.charters import FOUNDER, charter, words
from tests.support.stand_in_verifiers import install

OWN = """
def questions(seed):
    return {"question": f"{seed} + 1?", "answer": seed + 1}


def score(answer, question):
    return float(answer.strip() == str(question["answer"]))
"""
_TALK = """
import sys
import types

import verifiers as vf

PARTS = {
    "types": ("ToolCall", "ResponseMessage", "Response"),
    "errors": ("OverlongPromptError",),
    "clients": ("Client",),
}
for module, names in PARTS.items():
    base = Exception if module == "errors" else object
    made = types.ModuleType(f"verifiers.{module}")
    vars(made).update({name: type(name, (base,), {}) for name in names})
    sys.modules[made.__name__] = made


def right(**_):
    return 1.0


class Talk(vf.MultiTurnEnv):
    max_turns, tool_defs = 2, None

    async def rollout(self, row, *_):
        await self.get_model_response({}, row["prompt"])
        return {}


def load_environment():
    rows = [{"prompt": [{"role": "user", "content": f"Question {n}?"}], "answer": str(n)} for n in range(20)]
    return Talk(rows, types.SimpleNamespace(funcs=[right], weights=[1.0]), None)
"""
_LIBRARIES = {"PYTHONPATH": "{here}/libraries"}
_CACHE = {"XDG_CACHE_HOME": "{here}/cache"}


def talk(home: Path) -> None:
    """Install an environment that holds conversations."""
    with patch.dict(os.environ, XDG_CACHE_HOME=str(home.parent / "cache")):
        install("talk", _TALK)


def unmarked(home: Path) -> None:
    """Write a copy of GSM8K whose answers lack their mark."""
    for split in ("train", "test"):
        wrote(f"../copy/{split}.jsonl", '{"question": "1?", "answer": "1"}\n')(home)


@contextmanager
def packaged(home: Path) -> Iterator[str]:
    """Install a package with a task."""
    about = home.parent / "libraries/rhymes-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: rhymes\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[swarmctl.tasks]\nrhymes = rhymes\n")
    (about.parent / "rhymes.py").write_text(OWN)
    try:
        with with_libraries(home):
            installed_tasks.cache_clear()
            yield ""
    finally:
        installed_tasks.cache_clear()


def without_reasoning_gym() -> None:
    """Hide the library of most tasks."""
    find = importlib.util.find_spec

    def without(wanted: str, package: str | None = None) -> object:
        return None if wanted == "reasoning_gym" else find(wanted, package)

    importlib.util.find_spec = without  # type: ignore[assignment]
    for name in [name for name in sys.modules if name.partition(".")[0] == "reasoning_gym"]:
        del sys.modules[name]


def older_reasoning_gym() -> None:
    """Install an older version, for task workers too."""
    library("reasoning-gym", "0.1")
    os.environ["PYTHONPATH"] = str(Path("libraries").absolute())


def other_questions() -> None:
    """Make other questions than the same version of the library does elsewhere."""
    from hivemind_exp.tasks.mixture import Mixture

    Mixture.digest = lambda *_: "0" * 64  # type: ignore[method-assign]


def chartered(*tasks: CharterTask) -> Around:
    """Return a charter with these tasks on this machine; it yields the invitation to its swarm."""

    @contextmanager
    def have(home: Path) -> Iterator[str]:
        made = charter(tasks=tasks)
        wrote("nodes/other/charter", made.seal(FOUNDER))(home)
        yield f"swarm1:{made.id}"

    return have


@cache
def _swarm() -> tempfile.TemporaryDirectory[str]:
    """Return the home directory of a swarm's first node. Created once."""
    home = tempfile.TemporaryDirectory()
    with patch.dict(os.environ, SWARMCTL_HOME=home.name), tempfile.TemporaryDirectory() as place:
        made = run_real(SWARM.split(), Path(place) / "run", "", None)
    assert made.code == 0, made.err
    return home


def swarm(home: Path) -> None:
    """Copy a swarm's first node."""
    shutil.copytree(_swarm().name, home, dirs_exist_ok=True)


def superseded(home: Path) -> None:
    """Let a newer copy of a node have run."""
    files = NodeFiles(home / "nodes/tea")
    peer, started = Identity.load(files.key).peer_id, {"restored": 0, "started": 10**12}
    files.incarnation.write_text(json.dumps({"schema": 1, "peer": peer, **started, "superseded": started}))


_REASONS_LEFT_OUT = TEMPLATE.replace(
    "{{ m.content }}", "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}"
)
_SLOW_TURNS = f"{{% if messages|length > 1 %}}{LOOP}{{% endif %}}{TEMPLATE}"
_FILE_SWARM = "swarm new tea -p cpu --task {here}/q.jsonl --set swarm.loopback=true"
_TALKS = "--task env:talk --rounds 1 --set generation.max_prompt_tokens=400 --model {here}/model"
QUESTION_STATES: tuple[State, ...] = (
    # Sets of questions.
    State("tasks show gsm8k", around=with_workers),
    State('swarm new tea -p cpu --set \'tasks=[{name="gsm8k",path="{here}/copy"}]\'', (unmarked,), around=with_workers),
    State("tasks show spell_backward --param min_word_len=9 --param max_word_len=3", around=with_workers),
    State("tasks show base_conversion --param x=1", real=True, machine=without_reasoning_gym),
    State("tasks show {here}/own.py", (wrote("../own.py", OWN.replace("score", "scores")),), around=with_workers),
    State('run -p cpu --dry-run --set \'tasks=[{name="rhymes",path="x"}]\'', around=packaged, variables=_LIBRARIES),
    State(
        "tasks show spell_backward", (wrote("../libraries/msgpack.py", "raise ImportError\n"),), variables=_LIBRARIES
    ),
    # Environments.
    State('run -p cpu --dry-run --set \'tasks=[{name="env:talk",path="x"}]\'', (talk,), variables=_CACHE),
    State("run -p cpu --dry-run --task env:talk --set judge.provider=ollama:m", (talk,), variables=_CACHE),
    real(f"run -p plain {_TALKS}", talk, template(_REASONS_LEFT_OUT), variables=_CACHE),
    real(
        f"run -p plain {_TALKS}",
        talk,
        template(_SLOW_TURNS),
        variables=_CACHE,
        machine=partial(hurried, ENCODE_S=0.005),
    ),
    # Swarms.
    State("swarm new tea -p cpu --task {here}/own.py", (wrote("../own.py", OWN),)),
    State(
        "run -p demo --node two --join {it}",
        around=chartered(words(name="nosuch", label="nosuch", params={}, weight_ppm=MILLION)),
    ),
    State(
        "run -p demo --node two --join {it}",
        around=chartered(words(params={}, size=100, sha256="ef" * 32, weight_ppm=MILLION)),
    ),
    State(
        "run -p cpu --node two --join {it} --task {here}/other.jsonl",
        (QUESTIONS, _FILE_SWARM, wrote("../other.jsonl", '{"question": "2?", "answer": "2"}\n' * 99)),
        {"FILE.jsonl": "q.jsonl"},
        around=invited,
    ),
    State(
        "run -p demo --node two --join {it} --dry-run", (swarm,), real=True, machine=older_reasoning_gym, around=invited
    ),
    State("run -p demo --node two --join {it} --dry-run", (swarm,), real=True, machine=other_questions, around=invited),
    State("run --node tea --rounds 1", (swarm, superseded), real=True),
)
