"""The model card: the sources that a model learned from, and its accuracy. Both come from the journal alone."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCardData

from hivemind_exp.config import OFF, OWN_FILE, Config
from hivemind_exp.intervals import in_percent
from hivemind_exp.journal.records import SCORED_BY, Evaluation, SourceContribution
from hivemind_exp.models import smollm2
from hivemind_exp.source_kinds import Kind

KINDS = {
    Kind.POLICY: "this model, sampled during training",
    Kind.POLICY_TEXT: "this model, served by an API, as text",
    Kind.HINTED: "this model, shown a hint from another model; only answers that the verifier accepted",
    Kind.TEACHER: "another model, through an API; only answers that the verifier accepted",
    Kind.PEER: "other nodes of a swarm, as text, verified again by this node",
    Kind.RELAY: "any engine",
}
"""Whose text each kind is."""
_DATA_SETS = {"gsm8k": "openai/gsm8k"}
_OWN = {"jsonl": "custom questions", OWN_FILE: "custom questions and rewards"}


def base_name(config: Config) -> str:
    """Return the public name of the model that was trained. For a directory, this is only the last part of its path."""
    name = smollm2.HUB_ID if config.model.name == smollm2.NAME else config.model.name
    path = Path(name).expanduser()
    return path.resolve().name if name.startswith((".", "~", "/")) or path.is_dir() else name


def model_card(
    config: Config, *, round_: int, step: int, lessons: Sequence[SourceContribution], evaluations: Sequence[Evaluation]
) -> str:
    """Return a model's card after ``round_`` rounds and ``step`` steps, as Markdown with metadata."""
    parts = [
        f"---\n{_metadata(config).to_yaml()}\n---\n\n# {config.hub.repo.partition('/')[2]}",
        _made(config, round_, step),
        "## What it learned from",
        *_learned(config, lessons),
        "## Accuracy",
        _measured([each for each in evaluations if each.round <= round_]),
        "## Limitations",
        "The model was rewarded for correct answers to questions like these, and only its accuracy on them was "
        "measured. The base model's license and limitations still apply.",
    ]
    foreign = {"generated": any(lesson.kind is Kind.TEACHER for lesson in lessons)}
    foreign["scored"] = any(SCORED_BY in lesson.source for lesson in lessons)
    if any(foreign.values()):
        how = " and some was ".join(name for name, true in foreign.items() if true)
        parts.append(
            f"Some of the training text was {how} by another model. That model's license or its provider's terms may "
            "limit how you can use a model trained on it."
        )
    return "\n\n".join(parts) + "\n"


def _metadata(config: Config) -> ModelCardData:
    adapter = config.model.lora is not None
    name = base_name(config)
    base = name if "/" in name and name in (config.model.name, smollm2.HUB_ID) else None
    return ModelCardData(
        base_model=base,
        base_model_relation=("adapter" if adapter else "finetune") if base else None,
        datasets=sorted({_DATA_SETS[task.name] for task in config.tasks if task.name in _DATA_SETS}) or None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["grpo", "reinforcement-learning", "swarmctl"],
    )


def _made(config: Config, round_: int, step: int) -> str:
    what = f"A LoRA adapter (rank {config.model.lora.rank}) for" if config.model.lora else "A full fine-tune of"
    revision = f" at revision `{config.model.revision}`" if config.model.revision else ""
    rounds = f"{round_:,} round{'' if round_ == 1 else 's'} ({step:,} optimizer step{'' if step == 1 else 's'})"
    return (
        f"{what} `{base_name(config)}`{revision}, trained with GRPO by a swarmctl node: {rounds} of "
        f"{config.game.groups} questions with {config.game.group_size} answers each."
    )


def _learned(config: Config, lessons: Sequence[SourceContribution]) -> list[str]:
    tasks = ", ".join(f"`{_OWN.get(task.name, task.name)}`" for task in config.tasks)
    judged = config.judge.provider != OFF
    only = "reward" if judged else "only reward"
    rewards = f"Tasks: {tasks}. The {only} of an answer is its score from the task's verifier"
    if judged:
        judge = f"`{config.judge.model}`" if config.judge.model else "the default model"
        rewards += f", and up to {config.judge.weight:g} more from a judge: {judge} of {config.judge.provider}"
    rewards += "."
    if config.warmup.steps:
        rewards += f" Before GRPO, the model had {config.warmup.steps:,} steps of supervised training on these tasks."
    if config.warm_start.steps:
        rewards += f" Before GRPO, the model had {config.warm_start.steps:,} steps on its own correct answers."
    if config.game.format_reward:
        rewards += (
            f" Until it followed the format, each answer in that format earned {config.game.format_reward:g} more."
        )
    total = sum(lesson.tokens for lesson in lessons)
    if not total:
        return ["**Nothing yet**: no answer from any source has contributed to an optimizer step.", rewards]
    rows = [
        f"| `{lesson.kind}`: {KINDS[lesson.kind]} | {_who(lesson)} | {lesson.completions:,} | "
        f"{100 * lesson.tokens / total:.1f} % |"
        for lesson in sorted(lessons, key=lambda each: -each.tokens)
    ]
    table = "\n".join(["| source | provider | answers | share |", "|---|---|---|---|", *rows])
    counted = "The table counts answers that contributed to an optimizer step. The share is by tokens."
    return [table, counted, rewards]


def _who(lesson: SourceContribution) -> str:
    """Return who generated the answers, and who scored their tokens.

    Names of peers and providers can't break out of a table cell or add a link.
    """
    harmless = str.maketrans(dict.fromkeys("|`\r\n", " "))
    source, scored, teacher = lesson.source.partition(SCORED_BY)
    who = "this node" if source == "local" else f"`{source.translate(harmless)}`"
    return f"{who}{SCORED_BY}`{teacher.translate(harmless)}`" if scored else who


def _measured(evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return "Not measured yet."
    first, last = evaluations[0], evaluations[-1]
    how = (
        f" on {last.questions:,} held-out questions of the same tasks, which were never trained on. The model answered "
        "them with greedy decoding. The intervals are 95 %."
    )
    earlier = "before training" if first.round == 0 else f"after round {first.round:,}"
    if first.round == last.round:
        return f"Accuracy {_share(first)} {earlier}{how}"
    return f"Accuracy {_share(first)} {earlier}, {_share(last)} after round {last.round:,}{how}"


def _share(evaluation: Evaluation) -> str:
    return f"{100 * evaluation.accuracy:.1f} % ({in_percent(evaluation.accuracy, evaluation.questions)})"
