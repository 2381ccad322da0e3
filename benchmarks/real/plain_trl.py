"""Train a node's model with plain TRL: the node's questions, prompts, verifier, learning rate and number of steps.

Everything that the node's settings don't fix is as TRL has it by default. ``benchmarks.real.alone`` runs this beside
``swarmctl run``. Prints one JSON object.

    python -m benchmarks.real.plain_trl NODE_DIRECTORY --seed 0
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer

from hivemind_exp.config import Config
from hivemind_exp.game.node_style import node_style
from hivemind_exp.game.prompt_style import build_chats
from hivemind_exp.game.sampling.game import build_prompts, said
from hivemind_exp.models.device import resolve_compute
from hivemind_exp.models.loading import load_tokenizer
from hivemind_exp.models.model_location import locate_model
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import make_mixture
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Tasks
from hivemind_exp.tasks.verifiers.reader import is_marked

_ROWS = 32
"""TRL's rows per pass where the node chooses its own."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("node", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wait", action="store_true", help="after the imports, wait for a line on standard input")
    options = parser.parse_args(arguments)
    if options.wait and not sys.stdin.readline():
        return
    files = NodeFiles(options.node)
    config = Config.model_validate(json.loads(files.config.read_text())["config"])
    tokenizer = load_tokenizer(config.model)
    with closing(make_mixture(config, files)) as tasks:
        print(json.dumps(train(config, files, tokenizer, tasks, options.seed)), flush=True)


def train(
    config: Config, files: NodeFiles, tokenizer: PreTrainedTokenizerBase, tasks: Tasks, seed: int
) -> dict[str, Any]:
    """Return accuracy before and after, seconds of training, and the share of correct completions on the way."""
    chats = build_chats(node_style(config, files), tasks)
    per_round, rounds = config.game.groups, config.game.rounds
    asked = [question for round_ in range(rounds) for question in tasks.questions("train", round_, per_round)]
    shares: list[float] = []

    def reward(
        completions: list[list[dict[str, str]]], completion_ids: list[list[int]], number: list[int], **_: Any
    ) -> list[float]:
        # As the node does: a completion that was cut has no last line, so only an answer between marks counts.
        texts = [
            completion[0]["content"] if ids[-1] == tokenizer.eos_token_id or is_marked(completion[0]["content"]) else ""
            for completion, ids in zip(completions, completion_ids, strict=True)
        ]
        scores = tasks.score([asked[each] for each in number], texts)
        shares.append(sum(score.correct for score in scores) / len(scores))
        return [float(score.correct) for score in scores]

    compute = resolve_compute(config.model)
    directory = locate_model(config.model).directory
    micro_batch = _ROWS if config.train.micro_batch == "auto" else config.train.micro_batch
    half = compute.dtype == "bfloat16"
    with tempfile.TemporaryDirectory() as output:
        trainer = GRPOTrainer(
            model=config.model.name if directory is None else str(directory),
            reward_funcs=[reward],
            args=GRPOConfig(
                output_dir=output,
                seed=seed,
                bf16=half,
                use_cpu=compute.device == "cpu",
                max_steps=rounds,
                per_device_train_batch_size=micro_batch,
                gradient_accumulation_steps=per_round * config.game.group_size // micro_batch,
                num_generations=config.game.group_size,
                max_completion_length=config.generation.max_completion_tokens,
                learning_rate=config.train.learning_rate,
                warmup_steps=config.train.warmup_steps,
                lr_scheduler_type="constant_with_warmup",
                shuffle_dataset=False,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(
                [{"prompt": list(chats.chat(question)), "number": number} for number, question in enumerate(asked)]
            ),
            processing_class=tokenizer,
        )
        heldout = tasks.questions("heldout", 0, config.eval.questions)
        source = LocalSource(trainer.model, tokenizer, config.generation, StopFlag(), config.node.seed)
        prompts = build_prompts(heldout, tokenizer, chats)

        def accuracy() -> float:
            scores = tasks.score(heldout, [said(row) for row in source.answer(prompts)])
            return sum(score.correct for score in scores) / len(scores)

        before = accuracy()
        began = time.perf_counter()
        trainer.train()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    sixth = max(1, len(shares) // 6)
    parts = [shares[start : start + sixth] for start in range(0, len(shares), sixth)]
    return {
        "before": before,
        "after": accuracy(),
        "questions": len(heldout),
        "seconds": seconds,
        "curve": [sum(part) / len(part) for part in parts],
    }


if __name__ == "__main__":
    main()
