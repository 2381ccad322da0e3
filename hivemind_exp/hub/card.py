"""The model card: what a model learned from, who made that, and how good it is now. Facts of the journal alone."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCardData

from hivemind_exp.config import Config
from hivemind_exp.journal.records import Evaluation, SourceContribution
from hivemind_exp.rollouts.types import Kind

_KINDS = {
    Kind.POLICY: "the model itself, sampled while it trained",
    Kind.POLICY_TEXT: "the model itself, served elsewhere, as text",
    Kind.TEACHER: "another model, behind an API; only answers that the verifier accepted",
    Kind.PEER: "other nodes of a swarm, as text, verified again here",
    Kind.RELAY: "any engine",
}
_DATA_SETS = {"gsm8k": "openai/gsm8k"}


def base_name(config: Config) -> str:
    """Return what others may call the model that was trained: of a directory only its last part."""
    name = config.model.name
    path = Path(name).expanduser()
    return path.resolve().name if name.startswith((".", "~", "/")) or path.is_dir() else name


def model_card(
    config: Config, *, round_: int, step: int, lessons: Sequence[SourceContribution], evaluations: Sequence[Evaluation]
) -> str:
    """Return the card of a model after ``round_`` rounds and ``step`` steps, as Markdown with its metadata."""
    parts = [
        f"---\n{_metadata(config).to_yaml()}\n---\n\n# {config.hub.repo.partition('/')[2]}",
        _made(config, round_, step),
        "## What it learned from",
        *_learned(config, lessons),
        "## How good it is",
        _measured([each for each in evaluations if each.round <= round_]),
        "## What to keep in mind",
        "A model that was rewarded for right answers to these questions is better at these questions. Nothing else was "
        "measured. It has the licence and the faults of the model it began as.",
    ]
    if any(lesson.kind is Kind.TEACHER for lesson in lessons):
        parts.append(
            "Part of the text it learned from was made by another company's model, whose terms may limit what a model "
            "trained on it is used for."
        )
    return "\n\n".join(parts) + "\n"


def _metadata(config: Config) -> ModelCardData:
    adapter = config.model.lora is not None
    base = config.model.name if base_name(config) == config.model.name and "/" in config.model.name else None
    return ModelCardData(
        base_model=base,
        base_model_relation=("adapter" if adapter else "finetune") if base else None,
        datasets=sorted({_DATA_SETS[task.name] for task in config.tasks if task.name in _DATA_SETS}) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["grpo", "reinforcement-learning", "swarmctl"],
    )


def _made(config: Config, round_: int, step: int) -> str:
    what = f"An adapter (LoRA, rank {config.model.lora.rank}) for" if config.model.lora else "All weights of"
    revision = f" at revision `{config.model.revision}`" if config.model.revision else ""
    rounds = f"{round_:,} round{'' if round_ == 1 else 's'} ({step:,} optimizer step{'' if step == 1 else 's'})"
    return (
        f"{what} `{base_name(config)}`{revision}, post-trained with GRPO by a node of swarmctl: {rounds} of "
        f"{config.game.groups} questions with {config.game.group_size} answers each."
    )


def _learned(config: Config, lessons: Sequence[SourceContribution]) -> list[str]:
    tasks = ", ".join(f"`{'own questions' if task.name == 'jsonl' else task.name}`" for task in config.tasks)
    rewards = f"Questions: {tasks}. The reward is what the task's own verifier says of an answer, and nothing else."
    if config.warmup.steps:
        rewards += f" Before that, {config.warmup.steps:,} steps of supervised text, made from the same questions."
    total = sum(lesson.tokens for lesson in lessons)
    if not total:
        return ["**Nothing yet**: no answer of any source weighed anything in a step.", rewards]
    rows = [
        f"| `{lesson.kind}`: {_KINDS[lesson.kind]} | {_who(lesson)} | {lesson.completions:,} | "
        f"{100 * lesson.tokens / total:.1f} % |"
        for lesson in sorted(lessons, key=lambda each: -each.tokens)
    ]
    table = "\n".join(["| source | provider | answers | share |", "|---|---|---|---|", *rows])
    counted = "Counted are answers that weighed something in an optimizer step; the share is that of their tokens."
    return [table, counted, rewards]


def _who(lesson: SourceContribution) -> str:
    """Return who made it. A name from outside can neither leave its cell nor be a link."""
    harmless = str.maketrans(dict.fromkeys("|`\r\n", " "))
    return "this node" if lesson.source == "local" else f"`{lesson.source.translate(harmless)}`"


def _measured(evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return "Not measured yet."
    first, last = evaluations[0], evaluations[-1]
    how = (
        f" of {last.questions:,} held-out questions of the same tasks, answered greedily by the model itself and never "
        "trained on."
    )
    if first.round == last.round:
        when = "before training" if first.round == 0 else f"after round {first.round:,}"
        return f"Accuracy {100 * first.accuracy:.1f} % {when}{how}"
    return (
        f"Accuracy {100 * first.accuracy:.1f} % {'before training' if first.round == 0 else 'at first'}, "
        f"{100 * last.accuracy:.1f} % after round {last.round:,}{how}"
    )
