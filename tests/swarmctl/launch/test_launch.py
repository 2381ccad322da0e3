"""``swarmctl launch``: each file is checked with the schema or the parser of the program that it is for."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm import addresses
from hivemind_exp.swarm.contacts import KNOWN
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.launch.machines import GpuRequest, Machines
from swarmctl.paths import nodes_directory
from swarmctl.storage.json_file import write_json
from tests.support.schemas import compose_schema, errors

UV = (sys.executable, "-m", "uv")
HERE = "swarm1:" + "a" * 64 + "@/ip4/203.0.113.7/tcp/4001/p2p/12D3KooWBK9a1xYWwmnMv9AxyFsVLCtEV3KBbLpXWPPnkPAMo3hy"
SKY = """
import sys, yaml
from sky import Task
from sky.utils import common_utils, schemas
for path in sys.argv[1:]:
    file = yaml.safe_load(open(path))
    common_utils.validate_schema(file, schemas.get_task_schema(), "invalid: ")
    common_utils.validate_schema(file.get("resources", {}), schemas.get_resources_schema(), "invalid: ")
    file.pop("resources", None)  # names of GPUs are compared with a list from the network
    task = Task.from_yaml_config(file, secrets_overrides={name: "k" for name in file.get("secrets", {})})
    print(task.num_nodes)
"""
DSTACK = """
import sys, yaml
from dstack._internal.core.models.configurations import parse_run_configuration
for path in sys.argv[1:]:
    task = parse_run_configuration(yaml.safe_load(open(path)))
    print(task.nodes, task.resources.gpu.name if task.resources.gpu else None)
"""

PARSERS = {
    "sky": ("skypilot>=0.14,<0.15", SKY, ["1", "3"]),
    "dstack": ("dstack>=0.22,<0.23", DSTACK, ["1 None", "3 ['H100']"]),
}
"""By kind: the package, a script that reads files as the program does, and what it prints."""


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    assert cli.run(["launch", *arguments]) == Exit.DONE
    found = capsys.readouterr()
    return found.out, found.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(["launch", *arguments]) in (Exit.USAGE, Exit.CONFIGURATION)
    return capsys.readouterr().err


def words(script: str) -> list[str]:
    """Return the words of the command that starts a node."""
    (line,) = (line for line in script.splitlines() if " run --node " in line)
    return shlex.split(line)


@pytest.fixture
def files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Write a file of a kind with few options, and one with all of them; return their paths."""

    def write(kind: str) -> list[str]:
        few, _ = printed(capsys, "--print", kind, "--profile", "demo", "--gpu", "none")
        many = ["--join", HERE, "--nodes", "3", "--name", "Maths.v2", "--gpu", "H100", "--profile", "gpu"]
        offloaded = ["--offload", "openai:gpt-5-nano", "--max-usd", "2", "--set", "train.learning_rate=2e-5"]
        all_, _ = printed(capsys, "--print", kind, *many, *offloaded)
        paths = [tmp_path / "few", tmp_path / "all"]
        for path, text in zip(paths, (few, all_), strict=True):
            path.write_text(text)
        return list(map(str, paths))

    return write


@pytest.mark.slow
@pytest.mark.parametrize("kind", PARSERS)
def test_the_programs_themselves_accept_the_files(kind: str, files: Any, tmp_path: Path) -> None:
    package, script, found = PARSERS[kind]
    python = tmp_path / "venv/bin/python"
    subprocess.run([*UV, "venv", "--quiet", str(python.parent.parent)], check=True)
    subprocess.run([*UV, "pip", "install", "--quiet", "--python", str(python), package], check=True)
    paths = files(kind)
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([python, "-c", script, *paths], capture_output=True, text=True, env=home, check=False)
    assert (done.stdout.splitlines(), done.returncode) == (found, 0), done.stderr
    wrong = yaml.safe_load(Path(paths[1]).read_text())
    Path(paths[1]).write_text(yaml.safe_dump(wrong | {"nodez": 3}))
    done = subprocess.run([python, "-c", script, paths[1]], capture_output=True, text=True, env=home, check=False)
    assert "nodez" in done.stderr  # they do check


def test_compose_accepts_the_files(files: Any) -> None:
    few, all_ = (yaml.safe_load(Path(path).read_text()) for path in files("compose"))
    for file in (few, all_):
        assert errors(compose_schema(), file) == []
    (alone,) = few["services"].values()
    assert "deploy" not in alone
    assert alone["image"] == "swarmctl"
    devices = [
        service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for service in all_["services"].values()
    ]
    assert devices == [["0"], ["1"], ["2"]]
    assert list(all_["services"]) == ["maths-v2-0", "maths-v2-1", "maths-v2-2"]
    assert all_["services"]["maths-v2-1"]["command"][:3] == ["run", "--node", "Maths.v2-1"]
    assert all_["services"]["maths-v2-1"]["environment"] == ["OPENAI_API_KEY"]


def test_slurm_gets_a_script_that_bash_accepts(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMCTL_HOME", "/shared/a home")
    few, all_ = files("slurm")
    for path in (few, all_):
        assert subprocess.run(["bash", "-n", path], check=True).returncode == 0
    script = Path(all_).read_text()
    options = dict(line[10:].partition("=")[::2] for line in script.splitlines() if line.startswith("#SBATCH --"))
    assert options == {
        "job-name": "maths-v2",
        "ntasks": "3",
        "signal": "TERM@120",
        "requeue": "",
        "open-mode": "append",
        "output": "maths-v2-%j.log",
        "gpus-per-task": "h100:1",
    }
    assert "export SWARMCTL_HOME='/shared/a home'" in script
    assert "gpus-per-task" not in Path(few).read_text()
    inner = shlex.split(script.splitlines()[-1])[-1]
    assert inner.startswith("exec /")
    assert "Maths.v2-$SLURM_PROCID" in shlex.split(inner)


def test_the_command_is_complete_and_never_asks(capsys: pytest.CaptureFixture[str]) -> None:
    text, said = printed(capsys, "--print", "sky", "--join", HERE, "--profile", "gpu", "--set", "node.seed=7")
    assert words(yaml.safe_load(text)["run"]) == [
        *("exec", "swarmctl", "run", "--node", "gpu-$SKYPILOT_NODE_RANK", "--profile", "gpu"),
        *("--set", "node.seed=7", "--join", HERE, "--restart", "on-failure", "--plain", "--yes", "--no-input"),
    ]
    assert "anyone who has it can join" in said
    assert cli.run(["run", *words(yaml.safe_load(text)["run"])[3:-2], "--help"]) == Exit.DONE


def test_an_own_profile_is_spelled_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "own.toml"
    own.write_text('extends = "gpu"\n[train]\nlearning_rate = 3e-5\n')
    text, _ = printed(capsys, "--print", "dstack", "--profile", str(own))
    command = words("\n".join(yaml.safe_load(text)["commands"]))
    assert command[command.index("--profile") + 1] == "gpu"
    assert "train.learning_rate=3e-05" in command
    assert str(own) not in text


@pytest.mark.slow
def test_a_nodes_swarm_gives_invitation_profile_and_name(capsys: pytest.CaptureFixture[str]) -> None:
    announced = 'swarm.announce=["/ip4/203.0.113.7/tcp/4001"]'
    assert cli.run(["swarm", "new", "tea", "--profile", "demo", "--set", announced]) == Exit.DONE
    capsys.readouterr()
    text, said = printed(capsys, "tea", "--print", "slurm", "--nodes", "2")
    assert "--profile demo --join swarm1:" in text
    assert "/203.0.113.7/" in text
    assert "tea-$SLURM_PROCID" in text
    assert "Node tea is not running. Start it before the others." in said
    assert cli.run(["launch", "tea", "--print", "slurm", "--json"]) == Exit.DONE
    assert set(json.loads(capsys.readouterr().out)) == {"schema", "kind", "name", "nodes", "text"}


def test_a_node_that_only_this_machine_reaches_is_for_compose_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["swarm", "new", "tea", "--profile", "demo", "--set", "swarm.loopback=true"]) == Exit.DONE
    capsys.readouterr()
    error = refused(capsys, "tea", "--print", "sky")
    assert "node tea can be reached from this machine only" in error
    assert "run --node tea --set swarm.loopback=false" in error
    assert "/127.0.0.1/" in printed(capsys, "tea", "--print", "compose")[0]


@pytest.mark.slow
def test_no_loopback_in_what_is_for_other_machines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "hosts", lambda *, loopback=False: ("127.0.0.1",) if loopback else ("10.0.0.7",))
    profile = tmp_path / "trio.toml"
    profile.write_text('extends = "demo"\n[swarm]\nloopback = true\n')
    assert cli.run(["swarm", "new", "trio", "--profile", str(profile)]) == Exit.DONE
    files = NodeFiles(nodes_directory() / "trio")
    peer = "12D3KooWBK9a1xYWwmnMv9AxyFsVLCtEV3KBbLpXWPPnkPAMo3hy"
    near = {"addresses": ["/ip4/127.0.0.1/tcp/34501"], "first": time.time(), "answered": time.time()}
    (files.swarm / KNOWN).write_text(json.dumps({"schema": 1, "peers": {peer: near}}))
    capsys.readouterr()
    assert cli.run(["swarm", "invite"]) == Exit.DONE
    assert "/127.0.0.1/tcp/34501/" in capsys.readouterr().out  # the node itself is on loopback, too
    last = json.loads(files.config.read_text())
    last["config"]["swarm"]["loopback"] = False  # as `run --set swarm.loopback=false` leaves it
    files.config.write_text(json.dumps(last))
    assert cli.run(["swarm", "invite"]) == Exit.DONE
    invited = capsys.readouterr().out
    assert "/10.0.0.7/" in invited
    assert "127.0.0.1" not in invited
    text, said = printed(capsys, "trio", "--print", "slurm")
    assert "/10.0.0.7/" in text
    assert "127.0.0.1" not in text
    assert "swarm.loopback" not in text
    assert "The file leaves out swarm.loopback" in said
    assert "swarm.loopback=true" in printed(capsys, "trio", "--print", "compose")[0]


def test_a_node_that_is_in_no_swarm_leads_to_a_command_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    files = NodeFiles(nodes_directory() / "alone")
    files.root.mkdir(parents=True)
    write_json(files.identity, {"schema": 1})
    write_json(files.config, {"schema": 1, "profile": "demo", "overrides": {}, "config": {}})
    error = refused(capsys, "alone", "--print", "slurm")
    assert "Create one with `swarmctl swarm new NAME`" in " ".join(error.split())
    words = shlex.split(error.splitlines()[-1].removeprefix("  try: "))
    assert words[-5:] == ["launch", "--profile", "demo", "--print", "slurm"]
    assert "--profile demo" in printed(capsys, *words[-4:])[0]


def test_loopback_addresses_of_a_given_invitation_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    near = HERE.partition("@")[2].replace("203.0.113.7", "127.0.0.1")
    text, _ = printed(capsys, "--print", "sky", "--join", f"{HERE},{near}", "--profile", "gpu")
    assert HERE in text
    assert "127.0.0.1" not in text


def test_keys_are_named_and_never_written(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-0123456789abcdefghij")
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdefghij")
    options = ["--offload", "openai:gpt-5-nano", "--max-usd", "1", "--set", "hub.repo=me/model"]
    options += ["--rounds", "10"]
    for kind in ("sky", "dstack", "slurm", "compose"):
        text, said = printed(capsys, "--print", kind, *options)
        assert "0123456789" not in text + said
        assert "OPENAI_API_KEY" in text
        assert "HF_TOKEN" in text
    text, said = printed(capsys, "--print", "sky", "--join", HERE, "--nodes", "3", *options[:4])
    assert "offload.limits.usd=1" in text
    assert yaml.safe_load(text)["secrets"] == {"OPENAI_API_KEY": None}
    assert "--secret OPENAI_API_KEY" in text
    assert "Each of the 3 nodes may spend up to 1" in said


def test_a_judges_key_is_named_too(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--max-usd", "1", "--rounds", "10", "--set", "judge.provider=openai"]
    text, _ = printed(capsys, "--print", "sky", *options)
    assert yaml.safe_load(text)["secrets"].keys() == {"OPENAI_API_KEY"}
    options += ["--offload", "deepseek", "--set", "offload.share=0.5"]
    text, _ = printed(capsys, "--print", "sky", *options)
    assert yaml.safe_load(text)["secrets"].keys() == {"DEEPSEEK_API_KEY", "OPENAI_API_KEY"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--print", "helm"], "invalid --print: 'helm'. Use sky, dstack, slurm or compose"),
        (["--print", "sky", "--gpu", "8 x H100"], "invalid --gpu: '8 x H100'"),
        (["--print", "sky", "--nodes", "2"], "several nodes need a swarm"),
        (["tea", "--print", "sky", "--join", HERE], "both name a swarm"),
        (["--print", "sky", "--offload", "http://localhost:8000/v1:qwen"], "can be reached from this machine only"),
        (["--print", "sky", "--offload", "openai:gpt-5-nano"], "Set a spending cap per node with --max-usd"),
        (["--print", "sky", "--set", "judge.provider=openai"], "Set a spending cap per node with --max-usd"),
        (["--print", "sky", "--join", HERE.replace("203.0.113.7", "127.0.0.1")], "reached from this machine alone"),
        (["--print", "sky", "--model", "./"], "model.name is a directory on this machine"),
        (["--print", "sky", "--set", "train.learning_rate=fast"], "invalid train.learning_rate"),
    ],
)
def test_what_could_not_run_elsewhere_is_refused(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reason in " ".join(refused(capsys, *arguments).split())


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_nodes_that_start_a_server_of_their_weights_install_it(capsys: pytest.CaptureFixture[str], engine: str) -> None:
    options = ["--profile", "gpu", "--set", "model.lora.rank=16", "--serve", engine]
    setup = yaml.safe_load(printed(capsys, "--print", "sky", *options)[0])["setup"].splitlines()
    assert setup[-1] == f"uv tool install {engine}"
    *before, start = yaml.safe_load(printed(capsys, "--print", "dstack", *options)[0])["commands"]
    assert before[-1] == f"uv tool install {engine}"
    assert {f"offload.serving.command={engine}", "offload.kind=policy"} <= set(shlex.split(start))
    assert cli.run(["run", *shlex.split(start)[3:-2], "--help"]) == Exit.DONE
    path = f"/shared/bin/{engine}"
    text, _ = printed(capsys, "--print", "slurm", *options[:-1], path)
    assert f"offload.serving.command={path}" in text
    assert "uv tool install" not in text


_OPEN = 'offload.serving.arguments=["--host=0.0.0.0"]'
SERVED = ["--profile", "gpu", "--set", "offload.kind=policy", "--offload", "http://box:8000/v1:m"]


@pytest.mark.parametrize(
    ("arguments", "reason", "following"),
    [
        (["--print", "sky", "--serve", "/opt/vllm"], 'is a program of this machine ("/opt/vllm")', "sky --serve vllm"),
        (["--print", "compose", "--serve", "vllm"], "swarmctl's image has no vLLM", "launch --print compose"),
        (["--print", "sky", *SERVED], "Set offload.serving.folder to one that all of them have", "sky --serve vllm"),
        (["--print", "compose", *SERVED], "Set offload.serving.folder", "launch --help"),
        (
            ["--print", "slurm", *SERVED, "--set", 'offload.serving.urls=["http://b:1/v1","http://127.0.0.1:2/v1"]'],
            "http://127.0.0.1:2/v1 can be reached from this machine only",
            "launch --help",
        ),
        (["--print", "slurm", "--profile", "demo", "--serve", "vllm"], "cannot serve the demo's tiny", "launch --help"),
        (
            ["--print", "sky", "--profile", "gpu", "--set", "model.lora.rank=1024", "--serve", "vllm"],
            "adapters up to rank",
            "launch --help",
        ),
        (
            [*("--print", "dstack", "--profile", "gpu", "--serve", "sglang"), "--set", _OPEN],
            "opens the server to other machines",
            "launch --help",
        ),
        (["--print", "sky", "--serve", "vllm", "--offload", "vllm"], "either --serve or --offload", "launch --help"),
    ],
)
def test_servers_of_weights_that_the_nodes_could_not_use_are_refused(
    arguments: list[str], reason: str, following: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, *arguments)
    assert reason in " ".join(said.split())
    words = shlex.split(said.splitlines()[-1].removeprefix("  try: "))
    assert " ".join(words).endswith(following)
    assert cli.run(words[words.index("launch") :]) == Exit.DONE


def test_one_server_for_all_needs_a_directory_that_all_have(capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--set", "offload.serving.folder=/shared/pushed"]
    assert "/shared/pushed" in printed(capsys, "--print", "sky", *SERVED, *folder)[0]
    assert "http://box:8000/v1" in printed(capsys, "--print", "slurm", *SERVED)[0]


def test_files_of_questions_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "1 + 1?", "answer": "2"}\n' * 40)
    assert f"reads a file on this machine ({path})" in " ".join(
        refused(capsys, "--print", "sky", "--task", str(path)).split()
    )


RELAY = ("--offload", "openai:gpt-5-nano", "--max-usd", "2", "--set", "offload.kind=relay")


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--profile", "gpu"], True),
        (["--profile", "cpu"], False),
        (["--profile", "cpu", "--gpu", "24GB"], True),
        ([*RELAY, "--profile", "gpu"], False),
    ],
)
def test_nodes_that_would_not_use_a_gpu_get_none(
    options: list[str], wanted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    text, _ = printed(capsys, "--print", "slurm", *options)
    assert ("gpus-per-task" in text) == wanted


def test_gpus_are_models_or_memory() -> None:
    assert GpuRequest.parse("none") is None
    assert GpuRequest.parse("24GB") == GpuRequest(gigabytes=24)
    assert GpuRequest.parse("RTX4090") == GpuRequest(name="RTX4090")


@pytest.mark.parametrize(("name", "label"), [("Maths.v2", "maths-v2"), ("7up", "swarm-7up"), ("._.", "swarm")])
def test_labels_are_what_all_programs_accept(name: str, label: str) -> None:
    assert Machines(name, 1, None, ()).label == label


def test_nodes_get_a_gpu_for_each_process(capsys: pytest.CaptureFixture[str]) -> None:
    nodes = ["--join", HERE, "--nodes", "2", "--gpu", "H100", "--profile", "gpu", "--set", "train.processes=2"]
    texts = {kind: printed(capsys, "--print", kind, *nodes)[0] for kind in ("sky", "dstack", "slurm", "compose")}
    assert "accelerators: H100:2" in texts["sky"]
    assert "gpu: H100:2" in texts["dstack"]
    assert "--gpus-per-task=h100:2" in texts["slurm"]
    services = yaml.safe_load(texts["compose"])["services"].values()
    reserved = [each["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for each in services]
    assert reserved == [["0", "1"], ["2", "3"]]
