"""``swarmctl run --dry-run``: do a run's checks and show the plan. Changes nothing."""

import os
import shlex
import sys
from functools import partial
from typing import Any

from hivemind_exp.models import smollm2
from hivemind_exp.offload.judge import api_config
from hivemind_exp.offload.settings import is_offloaded
from swarmctl.errors import Exit
from swarmctl.keys.for_run import missing_keys
from swarmctl.nodes import directory as nodes
from swarmctl.nodes import lookup
from swarmctl.paths import shown
from swarmctl.run import trainer_process as trainer
from swarmctl.run.finished import finished
from swarmctl.run.join_swarm import CharterMembership
from swarmctl.run.offload_plan import Plan, banner, plan
from swarmctl.run.outcome import retry_hint
from swarmctl.run.summary import pushes, swarm_line
from swarmctl.settings.command_line import rerun, settings_arguments, shown_value
from swarmctl.settings.options import RunOptions
from swarmctl.settings.resolve import Resolved
from swarmctl.settings.schema import dotted
from swarmctl.settings.sources import NAME
from swarmctl.storage import node_lock as locks
from swarmctl.storage.hub_cache import offline
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.safe_text import clean, without_keys
from swarmctl.terminal.sentences import count, size
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting

_INDENT = " " * 10


def dry_run(options: RunOptions, resolved: Resolved, membership: CharterMembership | None, *, module: str) -> Exit:
    """Print the plan of a run. Raises whatever ``run`` would raise before its first round."""
    config = resolved.config
    files = lookup.files_of(config.node.name)
    retry = partial(rerun, resolved)
    nodes.check_identity(files, config, retry)
    with retry_hint(resolved):
        say = Writer(sys.stderr)
        with waiting(say, "checking the model and the device"):
            found = trainer.check(config, say, module)
        api = api_config(config)
        offload = plan(api, files) if is_offloaded(api) else None
    missing = missing_keys(config, os.environ)
    exists, running = files.root.exists(), locks.is_held(files.lock)
    if options.as_json:
        swarm = membership and membership.charter
        found["offload"] = offload and offload.as_json() | {"missing_keys": list(missing)}
        found["swarm"] = swarm and {"id": swarm.id, "name": swarm.name, "founder": swarm.founder}
        head = {"node": config.node.name, "exists": exists, "running": running, "profile": resolved.profile.reference}
        print_json(**head, **resolved.as_json(), check=found)
        return Exit.DONE
    state = "is running" if running else "exists" if exists else "new"
    if finished(files, resolved, membership) is not None:
        state = "exists and is done, so a run would do nothing"
    part = [] if membership is None else [("swarm", swarm_line(membership))]
    lines = [
        ("node", f"{config.node.name} ({state}): {shown(files.root)}"),
        ("settings", _settings(resolved)),
        *part,
        *_findings(found, resolved),
        *_offload(offload, missing),
    ]
    # With --all, the plan is a comment in the TOML of all settings, so that the output is a file.
    mark = "# " if options.all_settings else ""
    folded = Writer(sys.stdout).folded
    for label, text in lines:
        print(folded(f"{mark}{label:<{len(_INDENT)}}{text}", indent=mark + _INDENT))
    if options.all_settings:
        from swarmctl.settings.toml_text import as_toml

        print(clean(f"\n{as_toml(resolved, origins=True)}"))
        print("# Nothing was created or changed.")
    else:
        print(folded("Nothing was created or changed. To see all settings, add --all."))
    return Exit.DONE


def _settings(resolved: Resolved) -> str:
    """Return the profile, and the settings from other origins with their origin."""
    given = [each for each in resolved.overrides if each.path != NAME and each.value != ""]
    changed = [f"{dotted(each.path)} = {shown_value(each.value)} ({each.origin})" for each in given]
    return ", ".join([resolved.profile.label, *changed])


def _findings(found: dict[str, Any], resolved: Resolved) -> list[tuple[str, str]]:
    config = resolved.config
    accelerator = f" ({found['accelerator']})" if found.get("accelerator") else ""
    push = [("push", f"the model {pushes(config)}")] if config.hub.repo else []
    rounds = f"until round {config.game.rounds}" if config.game.rounds else "until you stop it"
    return [
        ("model", _model(found.get("model") or {}, resolved)),
        ("task", f"{', '.join(map(str, found.get('tasks') or []))}, {rounds}"),
        ("device", f"{found.get('device')}{accelerator}, {found.get('dtype')}"),
        ("memory", _memory(found, resolved)),
        *push,
    ]


def _model(model: dict[str, Any], resolved: Resolved) -> str:
    name, where = without_keys(resolved.config.model.name), str(model.get("where", "unknown"))
    if where == "will be downloaded":
        if name == smollm2.NAME:
            return f"{smollm2.TITLE}: not on this machine; the run downloads it ({smollm2.DOWNLOAD})"
        check = typed(f"swarmctl doctor hub {_selection(resolved)}")
        if offline(os.environ):
            return f"{name}: not on this machine, and HF_HUB_OFFLINE prevents its download"
        return f"{name}: not on this machine; the run downloads it. To check that the hub has it: {check}"
    parameters = f", {count(model['parameters'])} parameters" if model.get("parameters") else ""
    return f"{name}: {where}{parameters}"


def _memory(found: dict[str, Any], resolved: Resolved) -> str:
    """Return whether the run fits into the device's memory."""
    need, room = found.get("memory_bytes"), found.get("memory_available_bytes")
    if need is None:
        return "unknown until the model is on this machine"
    if room is None:
        return f"needs about {size(need)}; the device's memory is unknown"
    if need <= room:
        return f"needs about {size(need)}; {size(room)} available"
    return (
        f"needs about {size(need)} for prompts of maximum length, but only {size(room)} are available. "
        f"To see which settings fit: {typed(f'swarmctl doctor fit {_selection(resolved)}')}"
    )


def _selection(resolved: Resolved) -> str:
    """Return the arguments with which ``doctor`` checks the same configuration."""
    return shlex.join(settings_arguments(resolved))


def _offload(offload: Plan | None, missing: dict[str, str]) -> list[tuple[str, str]]:
    if offload is None:
        return []
    source, terms, money, *advice = banner(offload)
    keys = [("key", f"no key for {name}; save one with: {typed(save)}") for name, save in missing.items()]
    return [("offload", source), ("prompts", terms), ("cost", money), *(("advice", text) for text in advice), *keys]
