"""Merge a checkpoint's adapters into their base model."""

from pathlib import Path
from typing import Any

from hivemind_exp.models.loading import load_tokenizer
from hivemind_exp.trained.loading import Job, load


def merge(job: Job) -> None:
    """Save the merged model in float32, in which the merge is exact, and its tokenizer in the empty ``directory``."""
    job.link.phase(f"loading {job.config.model.name}")
    tokenizer = load_tokenizer(job.config.model, job.secrets.get("huggingface"))
    adapted: Any = load(job, job.checkpoint, tokenizer, dtype="float32")
    job.link.phase("merging the adapters")
    merged = adapted.float().merge_and_unload()
    directory = Path(job.order["directory"])
    merged.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
