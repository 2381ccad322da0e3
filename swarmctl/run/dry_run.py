"""``swarmctl run --dry-run``: do a run's checks and show the plan. Changes nothing."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.models import smollm2
from hivemind_exp.models.nvidia import nvidia_gpus
from hivemind_exp.offload.settings import chain, replica_endpoints
from hivemind_exp.tasks.descriptions import DESCRIPTIONS
from swarmctl.errors import Exit
from swarmctl.keys.for_run import missing_keys
from swarmctl.nodes import directory as nodes
from swarmctl.nodes import lookup
from swarmctl.paths import shown
from swarmctl.run import trainer_process as trainer
from swarmctl.run.cpu_pace import cpu_pace
from swarmctl.run.finished import finished
from swarmctl.run.join_swarm import CharterMembership
from swarmctl.run.offload_plan import Plan, labelled, plan
from swarmctl.run.outcome import retry_hint
from swarmctl.run.servers_down import ServerDown, check_command, is_unchanged, not_started_here, servers_down
from swarmctl.run.summary import changed_settings, pushes, swarm_line
from swarmctl.serving.gpus import place_server
from swarmctl.serving.memory import left_to_node
from swarmctl.settings.command_line import rerun, settings_arguments
from swarmctl.settings.options import RunOptions
from swarmctl.settings.resolve import Resolved
from swarmctl.storage import node_lock as locks
from swarmctl.storage.hub_cache import offline
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.safe_text import clean, without_keys
from swarmctl.terminal.sentences import count, size
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting

_INDENT = " " * 10
_AVAILABLE = "memory_available_bytes"
_FEW_TASKS = 3
_COMMAND = "\n"
"""Separates a text from the command that ends it."""
_WITH_PATHS = ("node", "settings", "model")
"""Labels of lines whose long paths are wrapped."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a run would do."""

    resolved: Resolved
    membership: CharterMembership | None
    found: dict[str, Any]
    """What the trainer found: the model, the device, the memory."""
    offload: Plan | None
    missing: dict[str, str]
    """Providers without a key, each with the command that saves one."""
    down: list[ServerDown]
    """The operator's own servers that accept no connection."""
    beside_server: bool = False
    """Whether the node's own server keeps some of the memory of the node's GPU."""

    def as_json(self) -> dict[str, Any]:
        """Return the output of ``--dry-run --json``."""
        config, charter = self.resolved.config, self.membership and self.membership.charter
        files = lookup.files_of(config.node.name)
        check = self.found | {
            "offload": self._use(judge=False),
            "judge": self._use(judge=True),
            "swarm": charter and {"id": charter.id, "name": charter.name, "founder": charter.founder},
        }
        return {
            "node": config.node.name,
            "exists": files.root.exists(),
            "running": locks.is_held(files.lock),
            "profile": self.resolved.profile.reference,
            **self.resolved.as_json(),
            "check": check,
        }

    def _use(self, *, judge: bool) -> dict[str, Any] | None:
        """Return the plan to generate or to grade; None if no API does."""
        if self.offload is None:
            return None
        for use in self.offload.uses:
            if use.judges == judge:
                names = {each.name for each in chain(use.config) if each is not None}
                missing = [name for name in self.missing if name in names]
                asked = [*replica_endpoints(use.config), *chain(use.config)]
                urls = {each.base_url for each in asked if each is not None}
                down = {each.endpoint.base_url: each.reason for each in self.down if each.endpoint.base_url in urls}
                return self.offload.as_json(use) | {"missing_keys": missing, "servers_down": down}
        return None

    def print_plan(self, mark: str = "") -> None:
        """Print the plan in about ten lines, each after ``mark``."""
        folded = Writer(sys.stdout).folded
        for label, text in self._lines():
            told, _, command = text.partition(_COMMAND)
            print(folded(f"{mark}{label:<{len(_INDENT)}}{told}", indent=mark + _INDENT, paths=label in _WITH_PATHS))
            if command:  # only the terminal wraps it, so that it can be copied
                print(f"{mark}  {command}")

    def _lines(self) -> list[tuple[str, str]]:
        """Return the lines of the plan, each with its label."""
        name = self.resolved.config.node.name
        files = lookup.files_of(name)
        state = "is running" if locks.is_held(files.lock) else "exists" if files.root.exists() else "new"
        if finished(files, self.resolved, self.membership) is not None:
            state = "exists and has finished, so a run would do nothing"
        return [
            *_servers(self.down, self.resolved),  # first: it is what the user has to do
            ("node", f"{name} ({state}): {shown(files.root)}"),
            ("settings", changed_settings(self.resolved)),
            *([] if self.membership is None else [("swarm", swarm_line(self.membership))]),
            *_findings(self.found, self.resolved, " beside the server" if self.beside_server else ""),
            *_offload(self.offload, self.missing),
        ]


def planned(resolved: Resolved, membership: CharterMembership | None, *, module: str) -> DryRun:
    """Do a run's checks and return its plan. Raises whatever ``run`` would raise before its first round."""
    config = resolved.config
    files = lookup.files_of(config.node.name)
    nodes.check_identity(files, config, partial(rerun, resolved))
    with retry_hint(resolved):
        say = Writer(sys.stderr)
        with waiting(say, "checking the model and the device"):
            found = trainer.check(config, say, module)
        offload = plan(config, files)
        down = servers_down(not_started_here(config))
    left = _beside_server(config, found)
    missing = missing_keys(config, os.environ)
    return DryRun(resolved, membership, found | left, offload, missing, down, beside_server=bool(left))


def _beside_server(config: Config, found: dict[str, Any]) -> dict[str, int]:
    """Return the memory that the node's own server leaves to the node; empty if they share no GPU."""
    room = found.get(_AVAILABLE)
    if not config.offload.serving.command or room is None:
        return {}
    gpus = nvidia_gpus() or []
    place = place_server(config, os.environ, len(gpus))
    return {_AVAILABLE: left_to_node(config, place, gpus, room)} if place.shared else {}


def dry_run(options: RunOptions, resolved: Resolved, membership: CharterMembership | None, *, module: str) -> Exit:
    """Print the plan of a run. Raises whatever ``run`` would raise before its first round."""
    made = planned(resolved, membership, module=module)
    if options.as_json:
        print_json(**made.as_json())
        return Exit.DONE
    # With --all, the plan is a comment in the TOML of all settings, so that the output is a file.
    made.print_plan("# " if options.all_settings else "")
    folded = Writer(sys.stdout).folded
    if options.all_settings:
        from swarmctl.settings.toml_text import as_toml

        print(clean(f"\n{as_toml(resolved, origins=True)}"))
        print("# Nothing was created or changed.")
    else:
        print(folded("Nothing was created or changed. To see all settings, add --all."))
    return Exit.DONE


def _findings(found: dict[str, Any], resolved: Resolved, beside: str) -> list[tuple[str, str]]:
    config = resolved.config
    accelerator = f" ({found['accelerator']})" if found.get("accelerator") else ""
    push = [("push", f"the model {pushes(config)}")] if config.hub.repo else []
    pace = cpu_pace(config, found, resolved.profile.reference)
    rounds = f"until round {config.game.rounds}" if config.game.rounds else "until you stop it"
    return [
        ("model", _model(found.get("model") or {}, resolved)),
        ("task", f"{_tasks([str(task) for task in found.get('tasks') or []])}; {rounds}"),
        ("device", f"{found.get('device')}{accelerator}, {found.get('dtype')}{_processes(found)}"),
        ("memory", _memory(found, resolved, beside)),
        *([] if pace is None else [("speed", pace)]),
        *push,
    ]


def _tasks(names: Sequence[str]) -> str:
    """Return the names of tasks; if they are few, with what a built-in one asks for."""
    if len(names) > _FEW_TASKS:
        return ", ".join(names)
    return "; ".join(f"{name}: {DESCRIPTIONS[name]}" if name in DESCRIPTIONS else name for name in names)


def _model(model: dict[str, Any], resolved: Resolved) -> str:
    name, where = without_keys(resolved.config.model.name), str(model.get("where", "unknown"))
    if where == "will be downloaded":
        if name == smollm2.NAME:
            return f"{smollm2.TITLE}: not on this machine; the run downloads it ({smollm2.DOWNLOAD})"
        check = typed(f"swarmctl doctor hub {_selection(resolved)}")
        if offline(os.environ):
            return f"{name}: not on this machine, and HF_HUB_OFFLINE prevents its download"
        return f"{name}: not on this machine; the run downloads it. To check that the hub has it:{_COMMAND}{check}"
    parameters = f", {count(model['parameters'])} parameters" if model.get("parameters") else ""
    return f"{name}: {where}{parameters}"


def _processes(found: dict[str, Any]) -> str:
    count = found.get("processes") or 1
    if count == 1:
        return ""
    return f", {count} processes" if found.get("device") == "cpu" else f", {count} GPUs with a process each"


def _memory(found: dict[str, Any], resolved: Resolved, beside: str) -> str:
    """Return whether the run fits into the device's memory. ``beside``: what else uses the device, as a phrase."""
    each = " for each process" if (found.get("processes") or 1) > 1 else ""
    need, usual, room = (found.get(f"memory_{name}bytes") for name in ("", "usual_", "available_"))
    if need is None:
        return "unknown until the model is on this machine"
    if room is None:
        return f"needs about {size(need)}{each}; the device's memory is unknown"
    here = f"{size(room)} available{beside}"
    if need <= room:
        return f"needs about {size(need)}{each}; {here}"
    few = f"{size(usual)} for typical prompts, and " if usual is not None and usual < need else ""
    left = f"; {here}" if few and usual <= room else f", but only {size(room)} are available{beside}"
    return (
        f"needs about {few}{size(need)}{each} for prompts of maximum length{left}. "
        f"To see which settings need less:{_COMMAND}{typed(f'swarmctl doctor fit {_selection(resolved)}')}"
    )


def _selection(resolved: Resolved) -> str:
    """Return the arguments with which ``doctor`` checks the same configuration."""
    return shlex.join(settings_arguments(resolved))


def _offload(offload: Plan | None, missing: dict[str, str]) -> list[tuple[str, str]]:
    if offload is None:
        return []
    keys = [("key", f"no key for {name}; save one with:{_COMMAND}{typed(save)}") for name, save in missing.items()]
    return [*labelled(offload), *keys]


def _servers(down: Sequence[ServerDown], resolved: Resolved) -> list[tuple[str, str]]:
    check, used = check_command(resolved), is_unchanged(resolved)
    return [("server", _COMMAND.join(each.text(resolved.config, check, used=used))) for each in down]
