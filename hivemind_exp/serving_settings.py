"""The settings of servers that the node pushes its weights to: the table ``[offload.serving]`` of a profile."""

import shlex
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hivemind_exp.foreign_text import foreign
from hivemind_exp.proxies import has_host
from hivemind_exp.settings_table import Section


def _with_host(url: str) -> str:
    if not has_host(url):
        raise ValueError(f"the base_url of a provider needs a valid host and port: {foreign(url)}")
    return url


def _splits(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"not a command: {error}") from error
    if command and not words:
        raise ValueError("not a command: it is blank")
    return command


BaseUrl = Annotated[str, Field(pattern=r"^https?://[^\s?#@]+$"), AfterValidator(_with_host)]
"""The base URL of an API. Its host and port are valid."""
InferenceEngineName = Literal["vllm", "sglang"]
"""The engines that take a node's weights: the names of ``INFERENCE_ENGINES`` (hivemind_exp.offload.api.engines)."""


class ServingConfig(Section):
    """Where the node pushes its adapters, or all its weights, with offload.kind = "policy"."""

    engine: InferenceEngineName | Literal["auto"] = "auto"
    """The engine that the servers run. "auto": the one that the provider is named after, or vllm for a server of your
    own."""
    urls: list[BaseUrl] = []
    """Base URLs of all replicas of the server, such as http://192.168.1.20:8000/v1. Empty: the provider's address."""
    folder: str = ""
    """Directory for what is pushed, which the servers must be able to read. Empty: the node's directory."""
    server_folder: str = ""
    """The path of the same directory on the servers, such as in a container. Empty: the same path."""
    command: Annotated[str, AfterValidator(_splits)] = ""
    """The program of a server that the node starts, watches and stops, such as vllm, sglang or /opt/vllm/bin/vllm. It
    runs on this machine, at a free port. Empty: the servers are yours to start."""
    arguments: list[str] = []
    """Further arguments for the server that the node starts, such as --gpu-memory-utilization=0.3 for vLLM. They win
    over those that the node chooses."""
    gpu: Annotated[int, Field(ge=0)] | None = None
    """The NVIDIA GPU for the server that the node starts, as nvidia-smi counts. Unset: the last one."""
    turns: Literal["auto", "on", "off"] = "auto"
    """Whether the server and the node take turns on one GPU: the server sleeps, and has given its memory back, unless
    it generates. Nothing is then requested ahead. "auto": if the server that the node starts gets the GPU that the node
    trains on. "on" also works with a server of your own on this machine, if it can sleep."""
