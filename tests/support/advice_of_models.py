"""States of models and hardware in which a trainer suggests a command, with doubles for what this machine lacks."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hivemind_exp.node_files import NodeFiles
from tests.support.advice_of_trainers import TEMPLATE, absent, real, resumed, template, trained
from tests.support.advised import State

LOOP = "{% for a in range(1000) %}{% for b in range(1000) %}{% endfor %}{% endfor %}"
"""Takes some 10 ms."""


def hurried(**limits: float) -> None:
    """Let chat templates have less CPU time. ``limits``: names of ``chat_format`` without underscores, in seconds."""
    from hivemind_exp.models import chat_format

    for name, seconds in limits.items():
        setattr(chat_format, f"_{name}", seconds)


def nvidia(*, driver: str = "580.95") -> None:
    """Have a machine with an NVIDIA GPU and its driver."""
    from hivemind_exp.models import hardware

    hardware.name_and_driver = lambda: ("NVIDIA L4", driver)


def without_cuda() -> None:
    """Have an NVIDIA GPU, and a build of torch that cannot use it."""
    import torch

    nvidia()
    torch.version.cuda = None


def cuda() -> None:
    """Have a build of torch that sees an NVIDIA GPU. Nothing can be computed there."""
    import torch

    nvidia()
    torch.version.cuda = "13.0"
    doubles: dict[str, Any] = {
        "is_available": lambda: True,
        "is_bf16_supported": lambda **_: True,
        "get_device_name": lambda _: "NVIDIA L4",
        "mem_get_info": lambda _: (2**34, 2**34),
    }
    for name, double in doubles.items():
        setattr(torch.cuda, name, double)


def cuda_without_liger() -> None:
    cuda()
    absent("liger_kernel")()


def cuda_with_another_liger() -> None:
    """Have a Liger without kernels for any model."""
    cuda()
    package = Path("libraries/liger_kernel/transformers").absolute()
    package.mkdir(parents=True, exist_ok=True)
    (package / "monkey_patch.py").write_text("MODEL_TYPE_TO_APPLY_LIGER_FN = {}\n")
    for place in (package, package.parent):
        (place / "__init__.py").touch()
    sys.path.insert(0, str(package.parents[1]))


def apple() -> None:
    """Have an Apple GPU."""
    import torch

    torch.backends.mps.is_available = lambda: True
    torch.mps.recommended_max_memory = lambda: 2**34


def overflowing(*, rate: float = 1.0) -> None:
    """Let gradients overflow outside float32, and at a learning rate above ``rate``. Give up at once."""
    from hivemind_exp.trainer import skipped_steps
    from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer

    take = SourceGRPOTrainer.step

    def step(self: Any, *arguments: Any) -> Any:
        found = take(self, *arguments)
        finite = not self.args.bf16 and self.args.learning_rate <= rate
        return found if finite else replace(found, grad_norm=float("inf"))

    SourceGRPOTrainer.step = step  # type: ignore[method-assign]
    skipped_steps.MOST_SKIPPED = 1


def small_memory() -> None:
    """Have memory for completions of at most 8 tokens in a step."""
    import torch

    from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer

    inputs = SourceGRPOTrainer._inputs

    def limited(self: Any, rows: Any, *rest: Any) -> Any:
        if max(len(row.completion_ids) for row in rows) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return inputs(self, rows, *rest)

    SourceGRPOTrainer._inputs = limited  # type: ignore[method-assign]


def wandb_refuses() -> None:
    """Have Weights & Biases refuse the key."""
    from hivemind_exp.runner import build_node

    refused = type("AuthenticationError", (Exception,), {"__module__": "wandb.errors"})

    def use(_secrets: object) -> None:
        raise refused("API key verification failed")

    build_node.use_wandb_key = use  # type: ignore[assignment]
    sys.modules.pop("wandb", None)  # tests that do not use it leave it out


def repeated(home: Path) -> None:
    """Save weights that fill a few hundred bytes: each tensor repeats one number."""
    import torch

    from tests.support import broken_models

    root = broken_models.usable(home.parent / "model")
    broken_models.change_config(root, hidden_size=128, intermediate_size=512)
    (root / "model.safetensors").unlink()
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        shapes = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(root)).state_dict()
    weights = {name: torch.zeros(1).expand(each.shape) for name, each in shapes.items()}
    torch.save(weights, root / "pytorch_model.bin")


def without_accents(home: Path) -> None:
    """Save a model whose tokenizer drops accents, and questions with some."""
    from tests.support import broken_models

    file = broken_models.usable(home.parent / "model") / "tokenizer.json"
    drops = {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"normalizer": drops}))
    lines = [json.dumps({"question": f"Où est le café {number}?", "answer": "ici"}) for number in range(40)]
    (home.parent / "cafes.jsonl").write_text("\n".join(lines))


def other_restorations(home: Path) -> None:
    """Replace a table of a node's journal by another one."""
    with closing(sqlite3.connect(NodeFiles(home / "nodes/maths").journal)) as db, db:
        db.execute("DROP TABLE IF EXISTS restorations")
        db.execute("CREATE TABLE restorations (x)")


def of_another_model(name: str, home: Path) -> None:
    """Let a node that has trained have begun with another model."""
    file = NodeFiles(home / "nodes/maths").config
    stored: Mapping[str, Any] = json.loads(file.read_bytes())
    stored["config"]["model"]["name"] = name
    file.write_text(json.dumps(stored))


_DRY = "run -p plain --rounds 1 --dry-run --set generation.max_prompt_tokens=400 --model {here}/model"
_RUN = _DRY.replace(" --dry-run", " --set prompt.style=tags")
_SLOW_WORDS = f"{{% if 'pell' in messages[-1].content %}}{LOOP}{{% endif %}}{TEMPLATE}"
MODEL_STATES: tuple[State, ...] = (
    # Chat templates.
    real(_DRY, template(f"{LOOP}{TEMPLATE}"), machine=partial(hurried, FIT_S=0.01)),
    real(_RUN, template(_SLOW_WORDS), machine=partial(hurried, ENCODE_S=0.005)),
    # Tokenizers, weights and packages.
    real(f"{_RUN} --task {{here}}/cafes.jsonl", without_accents),
    real(_RUN, repeated),
    State(
        "eval maths", (trained, partial(of_another_model, "smollm2")), real=True, variables={"HF_HOME": "{here}/hub"}
    ),
    real(
        "run -p plain --rounds 1 --set 'report.to=[\"wandb\"]'",
        machine=wandb_refuses,
        variables={"WANDB_API_KEY": "a" * 40},
    ),
    # Hardware.
    real(
        "run -p plain --rounds 1 --device auto --dry-run", machine=without_cuda, variables={"CUDA_VISIBLE_DEVICES": ""}
    ),
    real("run -p plain --rounds 1 --device cuda --set model.fused_kernels=true --dry-run", machine=cuda_without_liger),
    real(
        "run -p plain --rounds 1 --device cuda --set model.fused_kernels=true",
        machine=cuda_with_another_liger,
        fill={"fused_kernels=auto": "fused_kernels=auto --dry-run"},
    ),
    real("run -p plain --rounds 1 --device mps --set train.optimizer=adamw-8bit --dry-run", machine=apple),
    real(
        "run -p plain --node maths --rounds 1 --set model.dtype=bfloat16",
        machine=overflowing,
        fill={"dtype=float32": "dtype=float32 --rounds 1"},
    ),
    real(
        "run -p plain --node maths --rounds 1",
        machine=partial(overflowing, rate=5e-5),
        fill={"rate=1e-05": "rate=1e-05 --rounds 1"},
    ),
    real(
        "run -p plain --node maths --rounds 1 --set train.beta=0.1",
        machine=small_memory,
        fill={"tokens=8": "tokens=8 --rounds 1"},
    ),
    # A node's journal.
    resumed(other_restorations),
)
