"""Nodes' parts that ask a server of their own weights: a stand-in for vLLM or SGLang with a real tiny model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hivemind_exp.config import Config
from hivemind_exp.journal.records import StageRun
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.rollouts.types import Group, Prompt
from hivemind_exp.sources.policy_server import PolicyServerSource, build
from hivemind_exp.sources.source import Ask, NodeParts
from hivemind_exp.stop import StopFlag
from tests.support.nodes import make_config
from tests.support.policy_server import PolicyServer, policy_server
from tests.support.recorded_events import Events
from tests.support.sglang_server import SglangStandIn
from tests.support.spelling_task import Spelling

TOKENS = 6
STAND_INS: dict[str, type[PolicyServer]] = {"vllm": PolicyServer, "sglang": SglangStandIn}
"""By engine."""


def configure(directory: Path, urls: list[str], *, whole: bool = False, **sections: Any) -> Config:
    offload = {"provider": "box", "kind": "policy"} | sections.pop("offload", {})
    offload["serving"] = {"urls": urls} | offload.get("serving", {})
    generation = {"max_completion_tokens": TOKENS, "max_prompt_tokens": 300} | sections.pop("generation", {})
    return make_config(
        model={"name": str(directory), "device": "cpu", "threads": 1, "lora": None if whole else {"rank": 4}},
        prompt={"style": "tags"},
        offload=offload,
        generation=generation,
        providers={"box": {"base_url": urls[0], "model": "policy", "free": True}},
        **sections,
    )


@dataclass
class Node:
    """A node's part that asks the server, without a trainer."""

    source: PolicyServerSource
    model: Any
    events: Events
    servers: list[PolicyServer]
    version: int = 0
    prompts: list[Prompt] = field(default_factory=list)

    def step(self, size: float | None = None) -> None:
        """Move the weights, as an optimizer step does."""
        self.version += 1
        whole = not hasattr(self.model, "peft_config")
        size = size if size is not None else 0.05 if whole else 0.5
        with torch.no_grad():
            for name, each in self.model.named_parameters():
                if whole or "lora_B" in name:
                    each.add_(size * torch.randn(each.shape, generator=torch.Generator().manual_seed(self.version)))
        self.source.weights_moved(self.version)

    def ask(self, round_: int, stage: str = "answer") -> Ask:
        return Ask(StageRun(round_, stage), range(4), tuple((prompt, (0, 1, 2, 3)) for prompt in self.prompts))

    def play(self, round_: int, stage: str = "answer") -> list[Group]:
        self.source.request(self.ask(round_, stage))
        return [group for batch in self.source.collect(self.ask(round_, stage)) for group in batch]

    def told(self, code: str) -> list[str]:
        return [
            event["message"] for kind in ("warning", "note") for event in self.events.of(kind) if event["code"] == code
        ]


def served_node(
    directory: Path,
    root: Path,
    ends: ExitStack,
    *,
    engine: str = "vllm",
    whole: bool = False,
    urls: int = 1,
    url: str = "",
    offload: dict[str, Any] | None = None,
    temperature: float = 1.0,
    **faults: Any,
) -> Node:
    """Return a node with so many servers.

    ``whole``: whether it trains all weights. ``url``: one that exists already. ``faults``: the servers' attributes.
    """
    made = [ends.enter_context(policy_server(directory, STAND_INS[engine], **faults)) for _ in range(urls)]
    addresses = [url] if url else [address for _, address in made]
    offload = dict(offload or {})
    offload["serving"] = {"engine": engine} | offload.get("serving", {})
    config = configure(directory, addresses, whole=whole, offload=offload, generation={"temperature": temperature})
    model = AutoModelForCausalLM.from_pretrained(directory)
    torch.manual_seed(0)
    if not whole:
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=32, target_modules="all-linear"))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    events = Events()
    parts = NodeParts(config, StopFlag(), model, tokenizer, files=NodeFiles(root), emit=events)
    source = build(parts)
    assert source is not None
    ends.callback(source.close)
    node = Node(source, model, events, [server for server, _ in made])
    ids = [tuple(tokenizer.encode(f"Spell {word}")) for word in ("cat", "dog", "bird")]
    questions = Spelling().questions("train", 0, 3)
    node.prompts = [Prompt(each, "answer", (), own) for each, own in zip(questions, ids, strict=True)]
    return node


def rows(groups: list[Group]) -> list[Any]:
    return [row for group in groups for row in group.rollouts]
