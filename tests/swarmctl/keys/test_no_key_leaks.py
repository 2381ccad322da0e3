"""A planted key appears nowhere: not while a node runs, not when it fails, not afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config
from swarmctl.errors import Exit
from swarmctl.keys.for_run import keys_for, needed
from swarmctl.terminal.prompter import Prompter
from tests.support import fake_keyrings as keyrings
from tests.support.command_line import ROOT, STAND_IN, SWARMCTL, write_profile
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.server import api_server
from tests.support.fake_hub_http import MODEL, hub
from tests.support.fake_hub_uploads import Account, uploads
from tests.support.forked_swarmctl import ForkedSwarmctl
from tests.support.key_scan import ProcessScan, files_with, has_key
from tests.support.patience import finish
from tests.support.waiting import until

KEY = "hf_Pl4nted/Key+That=Must~Not:Be;Found-9f3c"
ON_HUB = ["-p", "demo", "--model", MODEL, "--set", "warmup.steps=0"]


@dataclass
class Watched:
    """A run that was scanned from start to end."""

    returncode: int
    out: str
    err: str
    scan: ProcessScan


Watch = Callable[..., Watched]


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    """Run a command with the key in its environment, scanning its processes; then scan its files and output.

    A forked process still shows the fork server's environment, so each kind of run is also started as users do.
    """

    def watch(
        *arguments: str,
        as_users_do: bool = False,
        stand_in: bool = True,
        do: Callable[[int], None] | None = None,
        key: str = KEY,
        kept: Path | None = None,
        **more: str,
    ) -> Watched:
        for name in ("user", "tmp"):
            (tmp_path / name).mkdir(exist_ok=True)
        environment = os.environ | {
            "HF_HUB_OFFLINE": "0",
            "HOME": f"{tmp_path}/user",
            "TMPDIR": f"{tmp_path}/tmp",
            "HF_HOME": f"{tmp_path}/hf",
        }
        environment |= {"HF_TOKEN": key, "OPENAI_API_KEY": key, "WANDB_API_KEY": key, "ANTHROPIC_API_KEY": key} | more
        process: ForkedSwarmctl | subprocess.Popen[str]
        if as_users_do:
            program = STAND_IN if stand_in else SWARMCTL
            process = subprocess.Popen(
                [*program, *arguments],
                cwd=ROOT,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        else:
            place = tmp_path / f"run {len(list(tmp_path.glob('run *')))}"
            place.mkdir()
            process = ForkedSwarmctl(arguments, environment, place, stand_in=stand_in)
        scan = ProcessScan(process.pid, key)
        scan.start()
        try:
            if do is not None:
                do(process.pid)
            out, err = finish(process, 120)
        finally:
            process.kill()
            scan.end()
        # The file in which the user stores the key is read by the command itself and by no other process.
        assert scan.found - {f"open file {kept} of {process.pid}"} == set()
        assert not has_key((out + err).encode(), key), out + err
        assert files_with(tmp_path, key) == []
        return Watched(process.wait(), out, err, scan)

    return watch


def after_a_round(node: Path, then: Callable[[int], None]) -> Callable[[int], None]:
    """Return a function that waits for a finished round and then does something to the node."""

    def do(pid: int) -> None:
        events = node / "events.jsonl"
        until(lambda: events.exists() and b'"round"' in events.read_bytes(), seconds=30)
        then(pid)

    return do


def trainer_of(node: Path) -> int:
    return int(json.loads((node / "lock").read_text())["trainer"])


def test_the_scan_finds_planted_keys(tmp_path: Path) -> None:
    (tmp_path / "leak").write_text(f"Bearer {KEY}")
    code = "import sys, time; open(sys.argv[2]); held = open(sys.argv[2]); time.sleep(20)"
    shell = f'{sys.executable} -c "{code}" "$KEY" {tmp_path}/leak; true'
    process = subprocess.Popen(["bash", "-c", shell], env=os.environ | {"KEY": KEY})
    scan = ProcessScan(process.pid, KEY)
    scan.start()
    try:
        until(lambda: len(scan.found) >= 3, seconds=10)
    finally:
        for pid in scan.seen:
            os.kill(pid, signal.SIGKILL)
        process.wait()
        scan.end()
    assert sorted(text.split(" of ")[0].split()[0] for text in scan.found) == ["cmdline", "environ", "open"]
    assert files_with(tmp_path, KEY) == [tmp_path / "leak"]
    assert has_key(b"Zm9v" + __import__("base64").b64encode(f"api:{KEY}".encode()), KEY)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a tiny model, as on the hub."""
    from hivemind_exp.models.tiny import build_model, build_tokenizer

    path = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(path)
    build_model(tokenizer, 0).save_pretrained(path)
    return path


@pytest.mark.slow
def test_a_real_run_with_a_private_model(watch: Watch, home: Path, model: Path) -> None:
    short = ["--rounds", "1", "--set", "eval.questions=4", "--set", "generation.max_completion_tokens=12", "-v"]
    with hub(model, KEY) as server:
        done = watch("run", *ON_HUB, *short, as_users_do=True, stand_in=False, HF_ENDPOINT=server.url)
        assert done.returncode == Exit.DONE, done.err
        assert "Key huggingface ····9f3c from $HF_TOKEN." in done.err
        assert {"config.json", "model.safetensors"} <= set(server.served)
    assert len(done.scan.seen) >= 4, "the node, its trainer, a question worker, a verifier"
    assert sum(done.scan.seen.values()) > 50


@pytest.mark.slow
def test_a_real_run_whose_token_is_refused(watch: Watch, model: Path) -> None:
    with hub(model, "hf_another") as server:
        done = watch("run", *ON_HUB, "-v", stand_in=False, HF_ENDPOINT=server.url)
    assert done.returncode == Exit.CONFIGURATION
    assert "swarmctl keys set huggingface" in done.err


OFFLOADING = """
extends = "demo"
[warmup]
steps = 0
[game]
rounds = 2
groups = 2
[eval]
questions = 4
[offload]
provider = "box0"
fallback = {fallback}
[providers.spare]
base_url = "{spare}"
model = "test-model"
free = true
"""
BOX = """
[providers.{name}]
base_url = "{url}"
model = "test-model"
needs_key = true
free = true
"""


def offloading(
    watch: Watch, tmp_path: Path, home: Path, faults: Sequence[Fault | None], *more: str, **options: Any
) -> None:
    """Run a node whose providers fail: the key goes neither to the last fallback nor to a redirect's target."""
    outside = tmp_path.with_name(tmp_path.name + "-key")
    outside.write_text(KEY)
    with ExitStack() as ends:
        spare = ends.enter_context(api_server())
        servers = [ends.enter_context(api_server(keys={KEY})) for _ in faults]
        names = [f"box{number}" for number in range(len(faults))]
        boxes = [BOX.format(name=name, url=each.base_url) for name, each in zip(names, servers, strict=True)]
        profile = OFFLOADING.format(fallback=json.dumps([*names[1:], "spare", "local"]), spare=spare.base_url)
        write_profile(home, "out", profile + "".join(boxes))
        for server, fault in zip(servers, faults, strict=True):
            if fault is not None:
                server.always(fault, location=f"{spare.base_url}/chat/completions")
        files = {f"SWARMCTL_{name.upper()}_API_KEY_FILE": str(outside) for name in names}
        done = watch("run", "-p", "out", "-v", "--json", *more, kept=outside, **files, **options)
        assert done.returncode == Exit.DONE, done.err
        assert [{entry.key for entry in server.ledger.chats} for server in servers] == [{KEY}] * len(servers)
        stood_in = spare.ledger.entries
    assert bool(stood_in) == any(faults)
    assert not has_key(repr(stood_in).encode(), KEY)
    assert any("hivemind_exp.offload.process.server" in command for command in done.scan.commands)


@pytest.mark.slow
def test_a_real_run_that_offloads_and_pushes(watch: Watch, tmp_path: Path, home: Path) -> None:
    """Uses Xet, as users do, so that its client's logs are scanned, too."""
    account = Account(token=KEY, xet=tmp_path / "xet")
    pushes = ("--set", "hub.repo=me/mine")
    with uploads(account) as url:
        offloading(watch, tmp_path, home, [None], *pushes, as_users_do=True, stand_in=False, HF_ENDPOINT=url)
    assert account.commits == ["After round 2"]
    assert not any(has_key(sent, KEY) for _, _, sent in account.shown)
    assert {server for server, shown, _ in account.shown if shown} == {"hub"}


@pytest.mark.slow
def test_the_key_does_not_leak_when_providers_fail(watch: Watch, tmp_path: Path, home: Path) -> None:
    """Uses the real engine, the only process with the key by then. Many groups, so that an outage is soon detected."""
    faults = (Fault.UNAUTHORISED, Fault.QUOTA, Fault.RESET, Fault.HTML_OK, Fault.REDIRECT, Fault.UNKNOWN_MODEL)
    short = ("--rounds", "1", "--set", "game.groups=8")
    offloading(watch, tmp_path, home, faults, *short, STAND_IN="offload")


@pytest.mark.slow
def test_a_real_run_whose_hub_repeats_the_token(watch: Watch) -> None:
    account = Account(token=KEY, echo=True)
    short = ["--rounds", "1", "--set", "eval.questions=4", "--set", "warmup.steps=0", "--set", "hub.repo=me/mine"]
    with uploads(account) as url:
        done = watch("run", "-p", "demo", *short, "-v", stand_in=False, HF_ENDPOINT=url)
    assert done.returncode == Exit.DONE, done.err
    assert "(the token)" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("act", ["run", "error", "killed", "traceback", "disk_full", "error_in_log", "limit", "spawn"])
def test_the_key_does_not_leak_however_a_run_ends(watch: Watch, home: Path, act: str) -> None:
    watch("run", *ON_HUB, "--rounds", "3", "-v", "--json", STAND_IN=act)
    node = home / "nodes/demo"
    assert (node / "token.sha256").read_text() == hashlib.sha256(KEY.encode()).hexdigest()
    assert "HOME" in json.loads((node / "request.json").read_text())["environment"]


@pytest.mark.slow
def test_ctrl_c_and_sigkill(watch: Watch, home: Path) -> None:
    def end(name: str, then: Callable[[int], None]) -> int:
        run = ("run", *ON_HUB, "--rounds", "0", "--node", name)
        return watch(*run, do=after_a_round(home / "nodes" / name, then)).returncode

    assert end("a", lambda pid: os.kill(pid, signal.SIGINT)) == Exit.INTERRUPTED
    assert end("b", lambda _: os.kill(trainer_of(home / "nodes/b"), signal.SIGKILL)) == Exit.FAILED
    assert end("c", lambda pid: os.kill(pid, signal.SIGKILL)) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["run", *ON_HUB, "--dry-run"],
        ["run", *ON_HUB, "--dry-run", "--json", "-v"],
        ["profiles", "show", "demo", "--json"],
        ["keys", "list"],
        ["keys", "list", "--json"],
        ["status", "--json"],
    ],
)
def test_read_only_commands(watch: Watch, command: list[str]) -> None:
    assert watch(*command).returncode == Exit.DONE


@pytest.mark.slow
def test_a_key_from_the_keyring_or_a_file(
    watch: Watch, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key reaches the trainer, and is in no file except the one that the user chose for it."""
    no_keys = {"HF_TOKEN": "", "OPENAI_API_KEY": "", "WANDB_API_KEY": "", "ANTHROPIC_API_KEY": ""}
    digest = hashlib.sha256(KEY.encode()).hexdigest()

    def save(*options: str) -> None:
        command = [*SWARMCTL, "keys", "set", "huggingface", "--no-test", *options]
        subprocess.run(command, cwd=ROOT, input=KEY, text=True, check=True, stderr=subprocess.DEVNULL)

    with keyrings.bus(tmp_path.with_name(tmp_path.name + "-session")) as session, keyrings.unlocked(session):
        session.pop("HOME")
        for name, value in session.items():
            monkeypatch.setenv(name, value)
        save()
        done = watch("run", *ON_HUB, "--rounds", "1", **no_keys)
        assert "Key huggingface ····9f3c from keyring." in done.err
        assert (home / "nodes/demo/token.sha256").read_text() == digest
        save("--insecure-storage")
    secrets = home / "secrets"
    assert files_with(home, KEY) == [secrets / "huggingface.json"]
    kept = secrets.rename(tmp_path.with_name(tmp_path.name + "-secrets"))
    secrets.symlink_to(kept)  # rglob does not follow it
    assert "from 0600 file" in watch("run", *ON_HUB, "--rounds", "2", **no_keys).err
    assert (home / "nodes/demo/token.sha256").read_text() == digest


def test_which_keys_a_run_needs(tmp_path: Path) -> None:
    def of(model: str, *to: str, **environment: str) -> list[str]:
        return needed(Config.model_validate({"model": {"name": model}, "report": {"to": to}}), environment)

    assert of("tiny", "tensorboard") == []
    assert of(str(tmp_path), "wandb") == ["wandb"]
    assert of("lab/model", "wandb") == ["huggingface", "wandb"]
    assert of("lab/model", "wandb", HF_HUB_OFFLINE="1", WANDB_MODE="offline") == []


def test_a_saved_key_is_not_sent_to_another_hub(home: Path) -> None:
    config = Config.model_validate({"model": {"name": "lab/model"}})
    command = [*SWARMCTL, "keys", "set", "huggingface", "--no-test", "--insecure-storage"]
    subprocess.run(command, cwd=ROOT, input=KEY, text=True, check=True, stderr=subprocess.DEVNULL)
    prompter = Prompter(silent=True)
    assert keys_for(config, prompter, {}).secrets == {"huggingface": KEY}
    kept = keys_for(config, prompter, {"HF_ENDPOINT": "https://mirror.example"})
    assert kept.secrets == {}
    assert kept.lines == (
        "warning: key huggingface is not used: it is for https://huggingface.co, but $HF_ENDPOINT is "
        "https://mirror.example.",
    )
    given = {"HF_ENDPOINT": "https://mirror.example", "HF_TOKEN": KEY}
    assert keys_for(config, prompter, given).secrets == {"huggingface": KEY}
    assert KEY not in repr(kept)
