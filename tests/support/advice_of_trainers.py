"""States in which a real trainer suggests a command."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hivemind_exp.journal.journal import Journal
from hivemind_exp.models import chat_format
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.node_id import NodeId
from hivemind_exp.trainer.checkpoints import SEAL
from tests.support.advice import record, recorded
from tests.support.advice_states import SAVED, changed, removed, wrote
from tests.support.advised import State, Told
from tests.support.command_line import UNTRAINED, write_profile
from tests.support.forked_swarmctl import ForkedSwarmctl

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


def run_real(
    arguments: list[str], place: Path, answers: str, machine: Callable[[], object] | None, *, stand_in: bool = False
) -> Told:
    """Run ``swarmctl`` in a process of its own, with its real trainer or the stand-in.

    ``place``: a new directory. ``answers``: its standard input. ``machine``: as in ``State``.
    """
    place.mkdir()
    (place / "stdin").write_text(answers)
    sites = place / "sites"
    begin = partial(_begin, sites, machine)
    process = ForkedSwarmctl(
        arguments, {}, place, stand_in=stand_in, directory=Path.cwd(), stdin=place / "stdin", before=begin
    )
    try:
        out, err = process.communicate(120)
    finally:
        process.kill()
    return Told(process.wait(), out, err, recorded(sites))


def _begin(sites: Path, machine: Callable[[], object] | None) -> None:
    record(sites)
    if machine is not None:
        machine()


def plain(home: Path) -> None:
    """Save the profile ``plain``: the demo without its warm-up, with four completions a round."""
    write_profile(home, "plain", f"{UNTRAINED}[game]\ngroups = 2\ngroup_size = 2\n")


def model(make: str) -> Callable[[Path], object]:
    """Return a function that saves a model of ``broken_models``."""

    def save(home: Path) -> None:
        from tests.support import broken_models  # imports transformers

        getattr(broken_models, make)(home.parent / "model")

    return save


def template(text: str | Mapping[str, str]) -> Callable[[Path], object]:
    """Return a function that saves a model with a chat template, or several with names."""

    def save(home: Path) -> None:
        from tests.support.tiny_models import save_llama

        root = save_llama(home.parent / "model")
        if isinstance(text, str):
            (root / "chat_template.jinja").write_text(text)
        else:
            (root / "chat_template.jinja").unlink()
            stored = json.loads((root / "tokenizer_config.json").read_text())
            named = [{"name": name, "template": each} for name, each in text.items()]
            (root / "tokenizer_config.json").write_text(json.dumps(stored | {"chat_template": named}))

    return save


def every_checkpoint(home: Path) -> None:
    """Damage every checkpoint of a node."""
    for seal in NodeFiles(home / "nodes/maths").checkpoints.glob("*/checkpoint.json"):
        seal.write_text("{}")


def shorter_journal(home: Path) -> None:
    """Delete the first steps of a node's journal."""
    with closing(sqlite3.connect(NodeFiles(home / "nodes/maths").journal)) as db, db:
        db.execute("DELETE FROM manifests WHERE step=0")


def other_nodes_journal(home: Path) -> None:
    """Replace a node's journal by one of another node."""
    files = NodeFiles(home / "nodes/maths")
    files.journal.unlink()
    Journal(files.journal, "0" * 64, node=NodeId("0" * 32, "tea")).close()


def other_nodes_checkpoint(home: Path) -> None:
    """Let a node's newest checkpoint be another node's."""
    seal = max(NodeFiles(home / "nodes/maths").checkpoints.glob("[0-9]*")) / SEAL
    seal.write_text(json.dumps(json.loads(seal.read_text()) | {"node": {"id": "0" * 32, "name": "tea"}}))


def directory(path: str) -> Callable[[Path], object]:
    """Return a function that replaces a file with a directory."""

    def replace(home: Path) -> None:
        (home / path).unlink(missing_ok=True)
        (home / path).mkdir()

    return replace


def absent(name: str) -> Callable[[], object]:
    """Return a function that hides a package."""
    return partial(_hide, name)


def _hide(name: str) -> None:
    find = importlib.util.find_spec

    def without(wanted: str, package: str | None = None) -> object:
        return None if wanted == name else find(wanted, package)

    importlib.util.find_spec = without  # type: ignore[assignment]
    sys.modules[name] = None  # type: ignore[assignment]


_DRY = "run -p plain --rounds 1 --dry-run --set generation.max_prompt_tokens=400 --model {here}/model"
_RUN = "run -p plain --rounds 1 --set generation.max_prompt_tokens=400 --model {here}/model"


def real(command: str, *before: str | Callable[[Path], object], **more: Any) -> State:
    """Return a state of a real trainer, with the profile ``plain``."""
    return State(command, (plain, *before), real=True, **more)


def resumed(*before: Callable[[Path], object]) -> State:
    """Return the state of a node that is resumed after changes of its files."""
    return State("run --node maths --rounds 3", (trained, *before), real=True)


@cache
def _trained(*more: str) -> tempfile.TemporaryDirectory[str]:
    """Return the home directory of a node with two rounds and a checkpoint of each. Run once for each ``more``."""
    home = tempfile.TemporaryDirectory()
    plain(Path(home.name))
    command = ["run", "-p", "plain", "--node", "maths", "--rounds", "2", "--set", "checkpoint.every=1", *more]
    with patch.dict(os.environ, SWARMCTL_HOME=home.name), tempfile.TemporaryDirectory() as place:
        made = run_real(command, Path(place) / "run", "", None)
    assert made.code == 0, made.err
    return home


def trained(home: Path) -> None:
    """Copy a node that has trained."""
    shutil.copytree(_trained().name, home, dirs_exist_ok=True)


def adapted(home: Path) -> None:
    """Copy a node that has trained adapters."""
    shutil.copytree(_trained("--set", "model.lora.rank=4").name, home, dirs_exist_ok=True)


def impatient() -> None:
    """Let a chat template have less CPU time."""
    chat_format._FIT_S = 0.3


_SOCKS = {"HTTPS_PROXY": "socks5://127.0.0.1:9"}
ENDLESS = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
FEW = "--set eval.questions=5000 --set 'tasks=[{name=\"spell_backward\",params={max_word_len=3}}]'"
TRAINER_STATES: tuple[State, ...] = (
    # Models.
    real(_DRY, model("half")),
    real(_DRY, model("quantized")),
    real(_DRY, model("own_code")),
    real(_DRY, model("too_few_rows")),
    real(_DRY, model("short")),
    real(f"{_DRY} --set model.lora.targets=nosuch", model("usable")),
    real(f"{_DRY} --set model.lora.rank=2 --set model.lora.targets=model", model("usable")),
    real(_RUN, model("not_finite")),
    real(_RUN, model("same_scores")),
    real(_RUN, model("capped")),
    real(_DRY, template("{{ raise_exception('tools only') }}")),
    real(_DRY, template({"rag": "a", "tool_use": "b"})),
    real(
        _DRY,
        template(ENDLESS),
        machine=impatient,
    ),
    real(_RUN, template(f"{{% if 'pell' in messages[-1].content %}}{{{{ 1 / 0 }}}}{{% endif %}}{TEMPLATE}")),
    real(_DRY, wrote("../model/x", "x")),
    real(f"{_DRY}/nosuch"),
    real("run -p plain --rounds 1 --model a/b/c --dry-run"),
    real("run -p plain --rounds 1 --model 'a b' --dry-run"),
    real("run -p plain --rounds 1 --model me/mine", fill={"--profile demo": "--profile demo --dry-run"}),
    # The machine.
    real("run -p plain --rounds 1 --device cuda --dry-run"),
    real("run -p plain --rounds 1 --device cuda:3 --dry-run", variables={"CUDA_VISIBLE_DEVICES": "0"}),
    real("run -p plain --rounds 1 --device cuda:3", variables={"CUDA_VISIBLE_DEVICES": "0"}),
    real("run -p plain --rounds 1 --device auto --gpus 2 --dry-run"),
    real("run -p plain --rounds 1 --set model.dtype=float16 --dry-run"),
    real("run -p plain --rounds 1 --set model.fused_kernels=true --dry-run"),
    real("run -p plain --rounds 1 --set train.optimizer=adamw-8bit --dry-run", machine=absent("bitsandbytes")),
    real("run -p plain --rounds 1 --set report.metrics_port=9464 --dry-run", machine=absent("prometheus_client")),
    real("run -p plain --rounds 1 --set report.metrics_address=192.0.2.1 --set report.metrics_port=9464"),
    # Tasks and lengths.
    real("run -p plain --rounds 1 --set generation.max_prompt_tokens=1"),
    real(f"run -p plain --rounds 1 {FEW}"),
    # A node's files.
    resumed(shorter_journal, every_checkpoint),
    resumed(wrote("nodes/maths/journal.sqlite", "x" * 5000)),
    resumed(other_nodes_journal),
    resumed(other_nodes_checkpoint),
    resumed(wrote("nodes/maths/secret", "")),
    resumed(directory("nodes/maths/secret")),
    resumed(wrote("nodes/maths/quarantine.json", '{"schema": 1, "sources": [1]}')),
    resumed(wrote("nodes/maths/quarantine.json", '{"schema": 99}')),
    resumed(changed("nodes/maths/node.json", charter="x")),
    resumed(directory("nodes/maths/journal.sqlite")),
    # Its trained model.
    State("export maths {here}/out", (trained, wrote("../out/x", "x")), real=True),
    State("replay maths --step 9", (trained,), real=True),
    State("eval maths", (trained, removed("nodes/maths/secret")), real=True),
    State("keys test openai", (SAVED,), real=True, variables=_SOCKS, machine=absent("socksio")),
)
