"""``swarmctl run --dry-run``: what a run would do, found out without touching anything."""

import json
from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.offload.settings import is_offloaded
from swarmctl.errors import Exit
from swarmctl.nodes import directory as nodes
from swarmctl.nodes import lookup
from swarmctl.paths import shown
from swarmctl.run import trainer_process as trainer
from swarmctl.run.join_swarm import CharterMembership
from swarmctl.run.offload_plan import as_json as as_json_of
from swarmctl.run.offload_plan import banner, plan
from swarmctl.run.retry import retry_hint, retry_with
from swarmctl.run.summary import pushes, swarm_line
from swarmctl.settings.resolve import Resolved
from swarmctl.settings.toml_text import as_toml
from swarmctl.terminal.safe_text import clean, without_keys
from swarmctl.terminal.sentences import count, size


def dry_run(resolved: Resolved, membership: CharterMembership | None, *, as_json: bool, module: str) -> Exit:
    """Print configuration, origins and findings. Raises what ``run`` would raise before its first round."""
    config = resolved.config
    files = lookup.files_of(config.node.name)
    nodes.check_free(files, retry_with(resolved))
    nodes.check_identity(files, config, retry_with(resolved))
    with retry_hint(resolved):
        found = trainer.check(config, module)
        offload = plan(config, files.ledger) if is_offloaded(config) else None
    exists = files.root.exists()
    if as_json:
        swarm = membership and membership.charter
        found["offload"] = offload and as_json_of(offload)
        found["swarm"] = swarm and {"id": swarm.id, "name": swarm.name, "founder": swarm.founder}
        head = {"schema": 1, "node": config.node.name, "exists": exists, "profile": resolved.profile.reference}
        print(json.dumps({**head, **resolved.as_json(), "check": found}))
        return Exit.DONE
    print(as_toml(resolved, origins=True))
    state = "exists" if exists else "would be made"
    node = f"node     {config.node.name}: {shown(files.root)} ({state})"
    told = [] if offload is None else [f"offload  {line}" for line in banner(offload)]
    part = [] if membership is None else [f"swarm    {swarm_line(membership)}"]
    for line in [node, *part, *_findings(found, config), *told, "Nothing was made or changed."]:
        print(clean(f"# {line}"))
    return Exit.DONE


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
    ]
