"""What doctor says about a server that should take this node's adapters."""

from __future__ import annotations

import shlex
import socket
from pathlib import Path
from typing import Any

import pytest

from swarmctl.doctor.check import Status
from tests.support.doctor_api import look, profile
from tests.support.policy_server import policy_server
from tests.support.tiny_models import save_llama

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("served") / "llama")


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ({}, Status.OK, "the server takes this node's adapters"),
        ({"updates": False}, Status.FAILED, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"),
        ({"enabled": False}, Status.FAILED, "Start it with --enable-lora"),
        ({"rank": 8}, Status.FAILED, "--max-lora-rank"),
        ({"processed": False}, Status.FAILED, "--logprobs-mode processed_logprobs"),
        ({"mounts": {"/": Path("/nowhere")}}, Status.FAILED, "offload.serving.folder"),
        ({"most": 2}, Status.WARNING, "--max-loras 4"),
        ({"down": True}, Status.FAILED, "HTTP 503"),
    ],
)
def test_the_flags_that_a_server_lacks_are_named(
    home: Path, directory: Path, fault: dict[str, Any], status: Status, words: str
) -> None:
    with policy_server(directory, **fault) as (server, url):
        lora = '[model]\nname = "Qwen/Qwen2.5-0.5B-Instruct"\nlora = true\n[generation]\ntemperature = 0.7\n'
        profile(home, url, box="free = true", more=f"{lora}[warmup]\nsteps = 0", offload='kind = "policy"')
        finding = look("api.adapters")["adapters"]
        assert (finding.status, words in finding.text) == (status, True), finding.text
        assert server.adapters == []


def test_nothing_is_asked_offline(home: Path) -> None:
    more = '[model]\nname = "Qwen/Qwen2.5-0.5B-Instruct"\nlora = true\n[warmup]\nsteps = 0'
    profile(home, "http://127.0.0.1:9/v1", box="free = true", more=more, offload='kind = "policy"')
    assert look("api.adapters", offline=True)["adapters"].status is Status.SKIPPED


def test_a_server_that_is_down_leads_to_the_command_with_all_its_flags(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free_port = server.getsockname()[1]
    more = '[model]\nname = "Qwen/Qwen2.5-0.5B-Instruct"\nlora = { rank = 16 }\n[warmup]\nsteps = 0'
    profile(home, f"http://127.0.0.1:{free_port}/v1", box="free = true", more=more, offload='kind = "policy"')
    found = look("api")
    for finding in (found["adapters"], found["box.host"]):
        assert finding.status is Status.FAILED
        words = shlex.split(finding.remedy or "")
        assert words[:3] == ["VLLM_ALLOW_RUNTIME_LORA_UPDATING=1", "vllm", "serve"]
        assert words[(at := words.index("--max-lora-rank")) : at + 2] == ["--max-lora-rank", "16"]
        assert ["--port", str(free_port)] == words[(at := words.index("--port")) : at + 2]


def test_every_replica_is_checked_and_the_providers_own_address_is_not(home: Path) -> None:
    serving = 'kind = "policy"\nserving.urls = ["http://127.0.0.1:9/v1/", "http://127.0.0.2:9/v1"]'
    more = '[model]\nname = "Qwen/Qwen2.5-0.5B-Instruct"\nlora = true\n[warmup]\nsteps = 0'
    profile(home, "http://127.0.0.1:8/v1", box="free = true", more=more, offload=serving)
    hosts = {name: finding for name, finding in look("api").items() if name.endswith(".host")}
    assert list(hosts) == ["box@127.0.0.1:9.host", "box@127.0.0.2:9.host"]
    assert set(look("api.box")) == {name for name in look("api") if name.startswith("box@")}
    for name, finding in hosts.items():
        assert finding.status is Status.FAILED
        assert f"nothing is listening at {name[4:].removesuffix('.host')}." in finding.text
