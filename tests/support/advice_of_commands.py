"""States of nodes, keys and services in which a command suggests another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest.mock import patch

from hivemind_exp.node_files import NodeFiles
from swarmctl.keys.keyring import Keyring
from swarmctl.keys.saved import bind
from swarmctl.swarm.invite import invitation
from swarmctl.swarm.member import member
from tests.support.advice_of_trainers import absent, adapted, shorter_journal, trained
from tests.support.advice_states import QUESTIONS, RAN, SAVED, SWARM, changed, quiet, reported, wrote
from tests.support.advice_surroundings import (
    answering,
    busy_port,
    keyring,
    locked,
    program,
    running,
    silent,
    suspended,
    untrusted,
)
from tests.support.advised import KEY, State
from tests.support.fake_services import GOOD


def gone(home: Path) -> None:
    """Delete the current directory."""
    place = home.parent / "gone"
    place.mkdir()
    os.chdir(place)
    place.rmdir()


def no_checkpoints(home: Path) -> None:
    shutil.rmtree(NodeFiles(home / "nodes/maths").checkpoints)


def bound(home: Path) -> None:
    """Use a key with another server first."""
    (home.parent / "key").write_text(KEY)
    bind("mybox", "https://other.example", "https://other.example/v1")


def sglang(home: Path) -> None:
    """Install an ``sglang``."""
    program(home, "sglang", "exit 0")


def vllm(home: Path) -> None:
    """Install a ``vllm``."""
    program(home, "vllm", "exit 0")


def accepting(home: Path) -> None:
    """Install a ``systemctl`` that accepts everything."""
    program(home, "systemctl", "exit 0")


def systemctl(home: Path) -> None:
    """Install a ``systemctl`` that finds no session bus."""
    program(home, "systemctl", "echo 'Failed to connect to bus: No medium found' >&2; exit 1")


def responds() -> AbstractContextManager[object]:
    """Let a keyring respond again."""
    return patch.object(Keyring, "state", lambda _self: {"backend": "SecretService", "locked": False})


@contextmanager
def invited(_home: Path) -> Iterator[str]:
    """Yield the invitation to the swarm of node tea."""
    node = member("tea", "invite")
    assert node.peer is not None
    yield str(invitation(node.files, node.settings, node.charter.id, node.peer))


_PATH = {"PATH": f"{{here}}/bin:{os.environ['PATH']}"}
_SERVER = "run -p demo --offload {it} --rounds 1"
_MYBOX = (
    "--set providers.mybox.base_url=https://127.0.0.1:9/v1 --set providers.mybox.needs_key=true "
    "--set providers.mybox.free=true --set offload.provider=mybox --set offload.model=m"
)
_UNENCRYPTED = {"HF_TOKEN": KEY, "HF_ENDPOINT": "http://hub.example", "HF_HUB_OFFLINE": ""}
_NO_MEMORY = {"STAND_IN_OOM": "1", "STAND_IN_PAUSE": "0.01"}
_SMALL = "--restart on-failure --set train.micro_batch=2 --set generation.batch=2"
_FILE_SWARM = "swarm new tea -p cpu --task {here}/q.jsonl --set swarm.loopback=true"
_LORA = "--set model.lora.rank="
_SESSION = {"DBUS_SESSION_BUS_ADDRESS": "{it}", "XDG_RUNTIME_DIR": "{here}/runtime", "XDG_DATA_HOME": "{here}/data"}
_NO_INDEX = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "HF_HOME": "{here}/hub"}
COMMAND_STATES: tuple[State, ...] = (
    State("status", (gone,)),
    State("run demo --rounds 1"),
    State("completion install fish", (wrote("../.config/fish/completions/swarmctl.fish", "x"),)),
    State("completion uninstall fish", (wrote("../.config/fish/completions/swarmctl.fish", "x"),)),
    State("launch maths --print slurm", (RAN,)),
    State("launch tea --print slurm", (SWARM,)),
    State("report maths --serve 8080 --port 9090", (reported,)),
    State("report maths --serve {it}", (reported,), around=busy_port),
    State("quarantine maths --lift 12D3KooWQ", (RAN,)),
    State("restart"),
    State("restart", (RAN,)),
    # Running nodes.
    State("run --node maths", around=suspended),
    State("rename maths two", around=running("maths")),
    State("stop", around=running("maths", "two")),
    State("attach", around=running("maths", "two", rounds=60)),
    State("service install maths", (systemctl,), variables=_PATH, around=running("maths")),
    State("swarm leave --node tea --yes", (SWARM,), around=running("tea")),
    # Services.
    State("service install maths", (RAN, systemctl), variables=_PATH),
    State("rename maths two", (RAN, accepting, "service install maths"), variables=_PATH),
    State("service install maths", (RAN,), {"NODE": "maths"}, variables={"PATH": "{here}/bin"}),
    State("service install maths --print systemd --key openai={here}/none", (RAN,)),
    # Nodes' files.
    State("export maths {here}/out", (quiet,)),
    State("export maths {here}/out", (RAN, changed("nodes/maths/config.json", config={"nosuch": {"x": 1}}))),
    State("backup maths {here}/b", (trained, shorter_journal, no_checkpoints)),
    State("run -p plain --node maths --fresh", (trained,)),
    State("sample maths --last", (trained,), {"PROMPT": "hello"}, real=True),
    State("run --node two --fresh --join {it}", (SWARM,), around=invited),
    State("run --node maths --join {it}", (SWARM, RAN), around=invited),
    State("swarm new 'a+b' -p demo"),
    State(
        "identity restore --node tea {here}/k",
        (SWARM, "identity backup --node tea {here}/k --passphrase"),
        typed=("other", KEY),
    ),
    # Servers of the node's weights.
    State("eval maths", (reported, changed("nodes/maths/config.json", config={"nosuch": {"x": 1}}))),
    State("run -p cpu --serve vllm"),
    State("run -p cpu --serve sglang"),
    State(
        "run -p cpu --serve vllm --set model.lora=false --set 'offload.serving.arguments=[\"--host=::\"]'",
        (vllm,),
        variables=_PATH,
    ),
    State(f"run -p demo --serve sglang {_LORA}8", (sglang,), variables=_PATH),
    State(
        f"run -p cpu --serve sglang {_LORA}8 --set 'offload.serving.arguments=[\"--host=::\"]'",
        (sglang,),
        variables=_PATH,
    ),
    State(f"run -p demo --serve vllm {_LORA}8", (vllm,), variables=_PATH),
    State(f"run -p cpu --serve vllm {_LORA}1024", (vllm,), variables=_PATH),
    State("run --offload http://u:p@h/v1 -p demo", fill={"http://HOST:PORT/v1": "http://127.0.0.1:9/v1:m"}),
    # The package index.
    State("run -p smol --rounds 1", variables=_NO_INDEX),
    State("run -p smol --rounds 1 --yes", variables=_NO_INDEX),
    # Keys.
    State("keys set openai --no-test --insecure-storage", typed=("x y", KEY)),
    State(
        "keys import {here}/some.env --no-test --insecure-storage",
        (SAVED, wrote("../some.env", f"OPENAI_API_KEY={KEY}\n")),
    ),
    State("keys set mybox --host {it} --insecure-storage", around=answering("models"), typed=(KEY, GOOD)),
    State(_SERVER, around=untrusted, variables={"REQUESTS_CA_BUNDLE": "{here}/own.pem"}),
    State(f"run -p demo {_MYBOX} --rounds 1", (bound,), variables={"SWARMCTL_MYBOX_API_KEY_FILE": "{here}/key"}),
    State("keys test openai", (SAVED, changed("keys/openai.json", home="keyring")), around=keyring, variables=_SESSION),
    State("keys test openai", (SAVED, changed("keys/openai.json", home="keyring")), around=locked, variables=_SESSION),
    State("doctor keys.keyring", around=locked, variables=_SESSION),
    State(_SERVER, around=answering("models"), typed=(KEY, GOOD)),
    State(_SERVER, around=answering('{"data": [{"id": "a"}, {"id": "b"}]}')),
    State("keys test huggingface", variables=_UNENCRYPTED),
    State("run -p demo --rounds 1 --set hub.repo=me/x", variables=_UNENCRYPTED),
    State("keys set openai --no-test", around=silent, variables=_SESSION),
    State("doctor keys.keyring", around=silent, meanwhile=responds, variables=_SESSION),
    # What this machine lacks.
    State(
        "rollouts export --node maths --format parquet -o {here}/o",
        (reported,),
        real=True,
        machine=absent("pyarrow"),
    ),
    State(
        "run -p smol --rounds 1 --yes",
        variables=_NO_INDEX | {"PATH": "{here}/bin"},
        real=True,
        machine=absent("pip"),
    ),
    State("run -p demo --rounds 1 --restart never", real=True, variables=_NO_MEMORY | {"STAND_IN": "killed"}),
    State(f"run -p demo --rounds 1 {_SMALL}", real=True, variables=_NO_MEMORY | {"STAND_IN": "too large"}),
    # Trained models.
    State("export maths {here}/o", (adapted,)),
    State("run --node two --join {it}", (QUESTIONS, _FILE_SWARM), {"FILE.jsonl": "q.jsonl"}, around=invited),
    # Models behind APIs.
    State("eval openai:gpt-4o-mini --task spell_backward", (SAVED,)),
)
