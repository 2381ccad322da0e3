"""Measure how the number of threads changes a step on a CPU: generating and training, with a model of SmolLM2's shape.

For each number of threads, a process of its own generates with a model of 135 M random parameters, and takes training
steps on the same tokens. The numbers take turns, so that a busy machine disturbs all alike. Prints the medians of
tokens per second and seconds per step, and their ratio to what a node chooses by itself (one thread for each physical
core that the process may use), with the range over the repetitions.

    python -m benchmarks.cpu_threads
    python -m benchmarks.cpu_threads --threads 1 4 16 64 --repeats 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from hivemind_exp.control_group import usable_cores, usable_physical_cores
from hivemind_exp.models import smollm2

_PROMPT = 64


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, a line per number of threads."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1, 2, 4, … up to the machine's processors")
    parser.add_argument("--rows", type=int, default=32, help="completions generated and trained on at once")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of a completion")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(_measure(options.measure, options.rows, options.tokens)))
        return
    chosen, logical = usable_physical_cores(), usable_cores()
    numbers = sorted({*(options.threads or _doubling(logical)), chosen})
    found: dict[int, list[tuple[float, float]]] = {number: [] for number in numbers}
    for _ in range(options.repeats):
        for number in numbers:
            found[number].append(_in_process(number, options.rows, options.tokens))
            print(f"# {number} threads: {found[number][-1]}", file=sys.stderr, flush=True)
    print(f"{chosen} physical cores, {logical} processors; {options.rows} rows of {options.tokens} tokens")
    print("threads  generated/s (× chosen)         s per training step (× chosen)")
    for number in numbers:
        speeds, steps = zip(*found[number], strict=True)
        of_speed = [own[0] / base[0] for own, base in zip(found[number], found[chosen], strict=True)]
        of_steps = [own[1] / base[1] for own, base in zip(found[number], found[chosen], strict=True)]
        mark = "*" if number == chosen else " "
        print(
            f"{number:6}{mark} {statistics.median(speeds):8.0f} {_ratio(of_speed)}   "
            f"{statistics.median(steps):10.2f} {_ratio(of_steps)}"
        )


def _doubling(most: int) -> list[int]:
    numbers = [1]
    while numbers[-1] * 2 <= most:
        numbers.append(numbers[-1] * 2)
    return [*numbers, most]


def _ratio(values: Sequence[float]) -> str:
    return f"({statistics.median(values):.2f}, {min(values):.2f} to {max(values):.2f})"


def _in_process(threads: int, rows: int, tokens: int) -> tuple[float, float]:
    command = [sys.executable, "-m", "benchmarks.cpu_threads", "--measure", str(threads)]
    command += ["--rows", str(rows), "--tokens", str(tokens)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    speed, step = json.loads(done.stdout.splitlines()[-1])
    return speed, step


def _measure(threads: int, rows: int, tokens: int) -> tuple[float, float]:
    """Return generated tokens per second, and seconds per training step."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = LlamaConfig.from_dict(smollm2.SHAPE)
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    prompts = torch.randint(0, config.vocab_size, (rows, _PROMPT))

    def generate(count: int) -> torch.Tensor:
        with torch.inference_mode():
            made = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=True,
                max_new_tokens=count,
                min_new_tokens=count,
                pad_token_id=0,
            )
        return torch.as_tensor(made).clone()

    def train(ids: torch.Tensor) -> None:
        for part in torch.split(ids, 8):
            (model(input_ids=part, labels=part).loss * len(part) / len(ids)).backward()
        optimizer.step()
        optimizer.zero_grad()

    train(generate(2))  # allocates the memory and the optimizer's state
    began = time.perf_counter()
    ids = generate(tokens)
    generated = time.perf_counter()
    train(ids)
    return rows * tokens / (generated - began), time.perf_counter() - generated


if __name__ == "__main__":
    main()
