"""States in which ``swarmctl`` suggests a command."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hivemind_exp.journal.journal import Journal
from hivemind_exp.node_files import NodeFiles
from tests.support.advised import KEY, State
from tests.support.loopback import serving
from tests.support.reported_nodes import quiet_node, reported_node

SAVED = "keys set openai --no-test --insecure-storage"
RAN = "run -p demo --node maths --rounds 2"
SWARM = "swarm new tea -p demo --set swarm.loopback=true"
INVITATION = f"swarm1:{'0' * 64}@/ip4/127.0.0.1/tcp/9/p2p/12D3KooWPCZHC28kVccsyWR3rdobVwg5b7PaxgBUyrsQWMLXG65e"
"""Of another swarm."""
_BOX = "--set providers.box.base_url=http://127.0.0.1:9/v1 --set offload.provider=box"
with socket.create_server(("127.0.0.1", 0)) as _free:
    SERVER = _free.getsockname()[1]
"""A port on which nothing listens until ``server`` does."""


def wrote(path: str, content: str | bytes) -> Callable[[Path], object]:
    """Return a function that writes a file below the home directory, or beside it with a leading ``../``."""

    def write(home: Path) -> None:
        target = home / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def mode(path: str, bits: int) -> Callable[[Path], object]:
    """Return a function that changes a file's mode."""
    return lambda home: (home / path).chmod(bits)


def removed(path: str) -> Callable[[Path], object]:
    """Return a function that deletes a file."""
    return lambda home: (home / path).unlink()


def changed(path: str, **values: object) -> Callable[[Path], object]:
    """Return a function that changes values of a JSON file."""

    def change(home: Path) -> None:
        stored = json.loads((home / path).read_bytes())
        (home / path).write_text(json.dumps(stored | values))

    return change


def reported(_home: Path) -> None:
    reported_node("maths", rounds=2)


class _Models(BaseHTTPRequestHandler):
    """A server's list of models."""

    def do_GET(self) -> None:
        body = b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def server() -> Iterator[None]:
    """Start a server at ``SERVER``."""
    with serving(ThreadingHTTPServer(("127.0.0.1", SERVER), _Models)):
        yield


def quiet(_home: Path) -> None:
    quiet_node("maths")


def journal(home: Path) -> None:
    files = NodeFiles(home / "nodes/maths")
    Journal(files.journal, "0" * 64).close()


def unnumbered(home: Path) -> None:
    """Make a node look as if the first version had written it."""
    path = home / "nodes/maths/node.json"
    path.write_text(json.dumps({"schema": 1}))


_PATH = {"PATH": f"{{here}}/bin:{os.environ['PATH']}"}
NANO = (wrote("../bin/nano", "#!/bin/sh\n"), mode("../bin/nano", 0o755))
"""Installs an editor that changes nothing."""
RIGHT = wrote("../right.toml", 'extends = "demo"\n')
CORRECTS = {"EDITOR": "cp {here}/right.toml"}
"""An editor that replaces a profile with a right one."""
QUESTIONS = wrote("../q.jsonl", "".join(f'{{"question": "{n} + 1?", "answer": "{n + 1}"}}\n' for n in range(300)))
FILE = "run -p cpu --node maths --task {here}/q.jsonl"
STATES: tuple[State, ...] = (
    # The command line.
    State("rnu"),
    State("run --devcie cpu"),
    State("run --rounds x"),
    State("keys delete openai " + KEY),
    # Keys.
    State("keys set opnai"),
    State("keys set openai " + KEY),
    State(f"keys test {KEY}"),
    State("keys set mybox --host ftp://x"),
    State("keys set openai --host https://evil.example/v1 --insecure-storage"),
    State("keys set mybox --host http://llm.example/v1 --no-test --insecure-storage"),
    State("keys set openai --no-test"),
    State("keys import", ()),
    State("keys import {here}/none.env"),
    State("keys import {here}/some.env --no-test", (wrote("../some.env", f"OPENAI_API_KEY={KEY}\n"),)),
    State("keys test"),
    State("keys test openai"),
    State("keys test mybox"),
    State("keys delete"),
    State("keys delete openai"),
    State("keys delete --all", (SAVED,)),
    State("keys list", (SAVED, wrote("keys/openai.json", "{"))),
    State("run -p demo --offload openai --max-usd 1"),
    State("run -p demo --offload openai --max-usd 1 --set offload.key=file"),
    State("keys test openai", (SAVED, mode("secrets/openai.json", 0o644))),
    State("keys test openai", (SAVED, wrote("secrets/openai.json", "{"))),
    State("keys test openai", (SAVED, removed("secrets/openai.json"))),
    State("keys set 'open ai'"),
    State("keys set --hots x"),
    State("run -p demo --set hub.repo=me/x", (), {}, {"HF_HUB_OFFLINE": ""}),
    # Profiles.
    State("profiles show nosuch"),
    State("profiles show dmeo"),
    State(
        "profiles edit mine", ("profiles new mine --from demo", *NANO), variables=_PATH | {"EDITOR": "no-such-editor"}
    ),
    State("profiles edit mine", ("profiles new mine --from demo", *NANO), variables=_PATH | {"EDITOR": "false"}),
    State("profiles edit mine", ("profiles new mine --from demo", *NANO), variables=_PATH | {"VISUAL": "false"}),
    State("profiles delete mine", ("profiles new mine --from demo",)),
    State("profiles edit demo"),
    State("profiles delete demo"),
    State("profiles new"),
    State("profiles new mine --from demo", ("profiles new mine --from demo",)),
    State("profiles new mine/x --from demo"),
    State("profiles import {here}/none.yaml --name x"),
    State("profiles show broken", (RIGHT, wrote("profiles/broken.toml", "[game\n")), {}, CORRECTS),
    State("profiles show broken", (RIGHT, wrote("profiles/broken.toml", "[gmae]\nrounds = 1\n")), {}, CORRECTS),
    State("profiles show loop", (wrote("profiles/loop.toml", 'extends = "loop"\n'),)),
    State("profiles show child", (wrote("profiles/child.toml", 'extends = "nosuch"\n'),)),
    State("run -p child", (wrote("profiles/child.toml", 'extends = "nosuch"\n'),)),
    State("run -p old", (RIGHT, wrote("profiles/old.toml", "[train]\nlearning_rat = 1\n")), {}, CORRECTS),
    # Settings.
    State("run -p dmeo --rounds 1"),
    State("run --set nonsense"),
    State("run -p demo --set model.devcie=cpu --rounds 1"),
    State("run -p demo --set model.device=gpu --rounds 1"),
    State("run -p demo --rounds 1", (), {}, {"SWARMCTL_GAME__ROUNDZ": "3"}),
    State("run -p demo --gpus 2"),
    State("run -p demo --offload opnai"),
    State("run -p demo --offload nobody", fill={"http://HOST:PORT/v1": "http://127.0.0.1:9/v1:m"}),
    State(f"run -p demo --offload 127.0.0.1:{SERVER}/v1", meanwhile=server),
    State("run -p demo --offload http:///v1", fill={"http://HOST:PORT/v1": "http://127.0.0.1:9/v1:m"}),
    State("run -p mine", (RIGHT, wrote("profiles/mine.toml", "extends = 3\n")), {}, CORRECTS),
    State("run -p mine", (RIGHT, wrote("profiles/mine.toml", b"\xff")), {}, CORRECTS),
    State(
        "run -p mine",
        (wrote("profiles/mine.toml", 'extends = "other"\n'), wrote("profiles/other.toml", 'extends = "mine"\n')),
    ),
    State(f"run -p demo --offload http://127.0.0.1:{SERVER}/v1", meanwhile=server),
    State("run -p demo --offload openai:gpt-4o-mini", (SAVED,)),
    State("run -p demo --offload xai --max-usd 1"),
    State("run -p demo --offload openai:no-such-model --max-usd 1", (SAVED,)),
    State(f"run -p demo {_BOX} --set offload.model=m", (), {}, {}),
    State(f"run -p demo {_BOX}"),
    State("run -p demo --set judge.provider=opnai"),
    State("run -p demo --set hub.repo=me/x"),
    State('run -p demo --set report.to=["wandb"]'),
    # Tasks.
    State("run -p demo --task spell_backwrad"),
    State("run -p demo --task nosuchtask"),
    State("run -p demo --task sapo"),
    State("run -p demo --task gsm8k"),
    State("run -p cpu --task env:nosuch"),
    State("run -p cpu --task {here}/none.jsonl --dry-run", fill={"FILE.jsonl": "none.jsonl"}),
    State("run -p cpu --task {here}/bad.jsonl --dry-run", (wrote("../bad.jsonl", '{"x": 1}\n'),)),
    State("run -p cpu --task {here}/broken.jsonl --dry-run", (wrote("../broken.jsonl", "{\n"),)),
    State("run -p cpu --task {here}/empty.jsonl --dry-run", (wrote("../empty.jsonl", ""),)),
    State("run -p cpu --task {here}/none.py --dry-run"),
    State("run -p cpu --task {here}/bad.py --dry-run", (wrote("../bad.py", "x = 1\n"),)),
    State('run -p cpu --set tasks=[{name="spell_backward",params={nosuch=1}}] --dry-run'),
    State('run -p cpu --set tasks=[{name="spell_backward",params={min_word_len="x"}}] --dry-run'),
    State("tasks show"),
    State("tasks show nosuchtask"),
    State("tasks show spell_backwrad"),
    State("tasks show spell_backward --param x"),
    State("tasks show spell_backward --param nosuch=1"),
    State("tasks try spell_backward"),
    State("tasks try spell_backward --no-input"),
    # Nodes.
    State("logs"),
    State("logs nosuch"),
    State("status nosuch"),
    State("logs maths --since yesterday", (RAN,)),
    State("attach"),
    State("attach nosuch"),
    State("attach maths", (RAN,)),
    State("restart nosuch", (RAN,)),
    State("rm maths", (RAN,)),
    State("rename maths tea/x", (RAN,)),
    State("rename maths other", (RAN, "run -p demo --node other --rounds 1")),
    State("fork maths tea", (RAN,)),
    State("fork maths tea", (quiet,)),
    State("fork tea copy", (SWARM,)),
    State("fork maths tea --at 50", (reported,)),
    State("quarantine maths 12D3KooWQ", (RAN,)),
    State("quarantine maths --release all", (RAN,)),
    State("run --node mahts --rounds 1", (RAN,)),
    State("run -p demo --node maths --seed 9 --rounds 3", (RAN,)),
    State("run -p demo --node maths --model other --rounds 3", (RAN,)),
    State("run --node maths", (wrote("nodes/maths/file", "x"),)),
    State("run --node maths --rounds 3", (RAN, wrote("nodes/maths/config.json", "{"))),
    State("run --node maths --rounds 3", (RAN, removed("nodes/maths/config.json"))),
    State(
        "run -p mine --node maths",
        ("profiles new mine --from demo", "run -p mine --node maths --rounds 1", removed("profiles/mine.toml")),
    ),
    State(
        "run --node maths",
        ("profiles new mine --from demo", "run -p mine --node maths --rounds 1", removed("profiles/mine.toml")),
    ),
    State("backup maths {here}/no/such/b", (RAN,)),
    State("backup maths {here}/b", (RAN, wrote("../b", "x"))),
    State("restore {here}/none.backup"),
    State("restore {here}/bad.backup", (wrote("../bad.backup", "x"),)),
    State("restore {here}/b", (reported, "backup maths {here}/b")),
    State("upgrade nosuch"),
    State("restore {here}/k", (SWARM, "identity backup --node tea {here}/k --no-input")),
    State(
        "run --node maths",
        (QUESTIONS, f"{FILE} --rounds 1", wrote("../q.jsonl", '{"question": "2?", "answer": "2"}\n' * 99)),
    ),
    State("upgrade maths", (reported, unnumbered, wrote("nodes/maths/journal.sqlite", "x" * 5000))),
    State("doctor keys --node maths --offline", (RAN, wrote("nodes/maths/config.json", "{"))),
    State("run -p demo --rounds 1", (), {}, {"STAND_IN": "first error, then run"}),
    State("run -p demo --rounds 1", (), {}, {"STAND_IN": "first crash, then run"}),
    State("run -p demo --rounds 1 --restart never", (), {}, {"STAND_IN": "first crash, then run"}),
    State("run --rounds 1", (), {}, {"STAND_IN": "damaged_model"}),
    State("run -p demo --rounds 1", (), {}, {"STAND_IN": "first unfit, then run"}),
    State("run -p demo --rounds 1 --restart never", (), {}, {"STAND_IN": "first killed, then run"}),
    # Rollouts and reports.
    State("rollouts show"),
    State("rollouts show --node maths", (RAN,)),
    State("rollouts show --node maths --source nonsense", (reported,)),
    State("rollouts stats --node maths --by nonsense", (reported,)),
    State("rollouts export --node maths -o {here}/o.jsonl", (reported, wrote("../o.jsonl", "x"))),
    State("rollouts export --node maths -o {here}/no/such/o.jsonl", (reported,)),
    State("rollouts show --node maths", (reported, wrote("nodes/maths/journal.sqlite", "x" * 5000))),
    State("report maths --port 8080", (reported,)),
    State("report maths --serve 70000", (reported,)),
    State("report maths -o {here}/no/such/r.html", (reported,)),
    State("report maths --open -o -", (reported,)),
    State("report nosuch"),
    # Swarms.
    State("swarm show"),
    State("swarm show --node maths", (RAN,)),
    State("swarm new te/a -p demo"),
    State("swarm new . -p demo"),
    State("swarm new tea -p demo --set game.kind=study-group --set game.curriculum=true"),
    State("swarm new tea -p demo", (SWARM,)),
    State("swarm new maths -p demo", (RAN,)),
    State("swarm new tea -p demo --set game.group_size=100"),
    State(
        "swarm new tea", (wrote("profiles/default.toml", f'extends = "demo"\n[swarm]\njoin = "swarm1:{"0" * 64}"\n'),)
    ),
    State("swarm leave --node maths", (RAN,)),
    State("swarm leave --node tea", (SWARM,)),
    State("swarm join nonsense"),
    State("swarm join swarm1:none"),
    State(f"swarm join swarm1:{'0' * 64} -p demo"),
    State("swarm show", (SWARM, SWARM.replace("tea", "two"))),
    State("swarm show --node tea", (SWARM, wrote("nodes/tea/charter", "x")), {"INVITATION": INVITATION}),
    State("run --node tea --fresh", (SWARM,)),
    State("run --node tea --rounds 1", (SWARM, wrote("nodes/tea/charter", "x")), {"INVITATION": INVITATION}),
    State("run --node tea --rounds 1 --set game.group_size=4", (SWARM,)),
    State("run --node tea --rounds 1", (SWARM, mode("nodes/tea/identity.key", 0o644))),
    State("run --node tea --rounds 1", (SWARM, wrote("nodes/tea/identity.key", "x"))),
    State("run -p demo --join swarm1:none"),
    State("identity new --node tea", (SWARM,)),
    State("identity new", (SWARM, RAN)),
    State("identity backup --node maths {here}/k", (RAN,)),
    State("identity restore --node tea {here}/none", (SWARM,)),
    State("identity restore --node tea {here}/bad", (SWARM, wrote("../bad", "x"))),
    # Trained models.
    State("sample maths", (RAN,)),
    State("sample nosuch"),
    State("sample maths --last", (reported,)),
    State("sample maths hello --last", (reported,)),
    State("eval maths", (RAN,)),
    State("export maths {here}/out", (RAN,)),
    State("replay maths", (RAN,)),
    State("replay maths --step 99", (reported,)),
    State("eval"),
    # Launch, services, completion, doctor.
    State("launch --print slurm --profile demo --nodes 3"),
    State("launch --print nosuch --profile demo"),
    State("launch --print slurm --node maths", (RAN,)),
    State("launch --print slurm --node tea", (SWARM,)),
    State("launch --print slurm --profile demo --offload openai", (SAVED,)),
    State(f"launch --print slurm --profile demo {_BOX} --set offload.model=m"),
    State(
        "launch --print slurm --profile cpu --task {here}/q.jsonl",
        (wrote("../q.jsonl", '{"question": "1?", "answer": "1"}\n' * 9),),
    ),
    State(
        "launch --print slurm --profile demo --set providers.box.base_url=https://llm.example/v1 --set "
        "providers.box.needs_key=true --set offload.provider=box --set offload.model=m --max-usd 1"
    ),
    State(f"launch --print slurm --profile demo --nodes 2 --join {INVITATION}"),
    State("launch --print sky --profile cpu --serve /opt/vllm/bin/vllm"),
    State("launch --print dstack --profile cpu --offload http://box:8000/v1:m --set offload.kind=policy"),
    State("launch --print compose --profile cpu --serve sglang"),
    State("launch --print slurm --profile demo --serve vllm"),
    State("service install maths"),
    State("service uninstall maths", (RAN,)),
    State("doctor nosuch"),
    State("doctor kyes"),
    State("doctor api --profile demo --offline --set offload.provider=nobody"),
    State("models nosuch"),
    State("models box"),
    State("models openai"),
    # Parameters and places of tasks.
    *(
        State(f"run -p cpu --rounds 1 --dry-run --set 'tasks=[{{{task}}}]'", tuple(before))
        for task, *before in (
            ('name="jsonl",params={a=1}',),
            ('name="jsonl"',),
            ('name="python-file"',),
            ('name="gsm8k",params={a=1}',),
            ('name="env:x",path="y"',),
            ('name="sapo",params={a=1}',),
            ('name="spell_backward",max_turns=3',),
            ('name="gsm8k",path="copy"', wrote("../copy/x", "x")),
        )
    ),
    State("run -p cpu --task bad.jsonl --dry-run", (wrote("../bad.jsonl", '{"question": "1?", "answer": "1"}\n'),)),
    # Rules for APIs.
    State("run -p cpu --offload http://127.0.0.1:9/v1:m --set offload.kind=relay --set offload.share=0.5"),
    State("run -p cpu --set judge.provider=ollama --set judge.model=m --offload ollama:m --set offload.share=1.0"),
    State("run -p cpu --offload ollama:MODEL"),
    # Proxies.
    State("keys test openai", (SAVED,), {}, {"HTTPS_PROXY": "http://"}),
    State("models openai", (SAVED,), {}, {"HTTPS_PROXY": "nonsense://127.0.0.1:9"}),
    State("run -p demo --rounds 1", (), {}, {"HF_ENDPOINT": "ftp://hub.example"}),
    State(
        "keys test mybox",
        ("keys set mybox --host http://llm.example/v1 --no-test --insecure-storage --yes",),
        variables={"HTTP_PROXY": "http://127.0.0.1:9"},
    ),
    # Swarms and files.
    State("run --node maths --rounds 3 --offload ollama:m", (RAN, wrote("nodes/maths/ledger.sqlite", "x" * 5000))),
    State("run --node tea --rounds 1 --set game.curriculum=true", (SWARM,)),
    # The surroundings.
    State("status", (), {}, {"SWARMCTL_HOME": os.devnull}),
)
