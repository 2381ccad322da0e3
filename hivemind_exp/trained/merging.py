"""Merge a checkpoint's adapters into their base model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hivemind_exp.models.loading import load_tokenizer
from hivemind_exp.trained.loading import Job, load


def merge(job: Job) -> None:
    """Save the merged model in float32, in which the merge is exact, and its tokenizer in the empty ``directory``.

    Adapters of a base in 4 bits are merged into its unquantized weights.
    """
    job.link.phase(f"loading {job.config.model.name}")
    tokenizer = load_tokenizer(job.config.model, job.secrets.get("huggingface"))
    whole = job.config.model.model_copy(update={"load_in_4bit": False})
    job = replace(job, config=job.config.model_copy(update={"model": whole}))
    adapted: Any = load(job, job.checkpoint, tokenizer, dtype="float32")
    job.link.phase("merging the adapters")
    merged = adapted.float().merge_and_unload()
    directory = Path(job.order["directory"])
    merged.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
