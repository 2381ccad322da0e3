"""``swarmctl run --dry-run``: what a run would do, found out without touching anything."""

from __future__ import annotations

import json
from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.errors import NodeError
from swarmctl import nodes, trainer
from swarmctl.errors import Exit
from swarmctl.paths import shown
from swarmctl.resolve import Resolved
from swarmctl.schema import dotted, settings
from swarmctl.sentences import count, size
from swarmctl.summary import pushes
from swarmctl.text import clean, without_keys
from swarmctl.tomlview import as_toml, origin_of
from swarmctl.verdict import completed


def dry_run(resolved: Resolved, *, as_json: bool, retry: nodes.Retry, module: str) -> Exit:
    """Print configuration, origins and findings. Raises what ``run`` would raise before its first round."""
    config = resolved.config
    files = nodes.files_of(config.node.name)
    nodes.check_free(files, retry)
    nodes.check_identity(files, config, retry)
    try:
        found = trainer.check(config, module)
    except NodeError as error:
        error.next = completed(error.next, retry(config.node.name)) if error.next else None
        raise
    if as_json:
        print(json.dumps(_object(resolved, found, exists=files.root.exists())))
        return Exit.DONE
    print(as_toml(resolved, origins=True))
    state = "exists" if files.root.exists() else "would be made"
    for line in [f"node     {config.node.name}: {shown(files.root)} ({state})", *_findings(found, config)]:
        print(clean(f"# {line}"))
    return Exit.DONE


def _object(resolved: Resolved, found: dict[str, Any], *, exists: bool) -> dict[str, Any]:
    config = without_keys(resolved.config.model_dump(mode="json"))
    return {
        "schema": 1,
        "node": resolved.config.node.name,
        "exists": exists,
        "profile": resolved.profile.reference,
        "config": config,
        "origins": {dotted(path): origin_of(resolved, dotted(path)) for path in settings()},
        "check": found,
    }


def _findings(found: dict[str, Any], config: Config) -> list[str]:
    model = found.get("model") or {}
    parameters = model.get("parameters")
    parameters_text = f", {count(parameters)} parameters" if parameters else ""
    memory = found.get("memory_bytes")
    accelerator = f" ({found['accelerator']})" if found.get("accelerator") else ""
    return [
        f"device   {found.get('device')}{accelerator}, {found.get('dtype')}",
        f"model    {without_keys(config.model.name)}: {model.get('where', 'unknown')}{parameters_text}",
        f"tasks    {', '.join(map(str, found.get('tasks') or []))}",
        f"memory   {f'about {size(memory)}' if memory else 'unknown'}",
        *([f"push     {pushes(config)}"] if config.hub.repo else []),
        "Nothing was made or changed.",
    ]
