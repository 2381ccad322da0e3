"""What ``swarmctl run`` does, once its arguments are parsed."""

import json
import os
import sys
import time

from hivemind_exp.offload.settings import check_offload, is_offloaded
from hivemind_exp.tasks.registry import check_tasks
from swarmctl.errors import Exit
from swarmctl.keys.for_run import keys_for
from swarmctl.nodes import directory as nodes
from swarmctl.nodes import lookup
from swarmctl.run import trainer_process as trainer
from swarmctl.run.consent import ask_consent, record_consent
from swarmctl.run.join_swarm import join, store_membership
from swarmctl.run.offload_plan import banner, plan
from swarmctl.run.outcome import exit_code_for
from swarmctl.run.retry import retry_hint, retry_with
from swarmctl.run.summary import conclusion, introduction
from swarmctl.run.supervisor import StopSignals, TrainerExit, supervise
from swarmctl.settings.command_line import resolved_options
from swarmctl.settings.last_run import changes, read_last, write_last
from swarmctl.settings.options import RunOptions
from swarmctl.settings.resolve import Resolved
from swarmctl.storage import disk_errors
from swarmctl.terminal.progress import RunView, result
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.views import Writer, view


def run_command(options: RunOptions, *, module: str = trainer.MODULE) -> Exit:
    """Run a node to its end. Raises the NodeError to print where it fails."""
    say = Writer(sys.stderr)
    resolved, membership = join(resolved_options(options), say, module=module)
    _check_tasks(resolved)
    if options.dry_run:
        from swarmctl.run.dry_run import dry_run

        return dry_run(resolved, membership, as_json=options.as_json, module=module)
    prompter = Prompter(yes=options.yes, silent=options.no_input or options.as_json)
    keys = keys_for(resolved.config, prompter, os.environ)
    offload, agreed = _agree(resolved, prompter)
    with StopSignals() as signals, nodes.opened(resolved.config, retry_with(resolved)) as node:
        before = read_last(node.files) if node.resumes else None
        with disk_errors.disk_errors(node.files.root):
            record_consent(node.files, agreed)
            membership = membership and store_membership(node.files, membership)
            write_last(node.files, resolved)
        if not options.quiet:
            for line in [*introduction(node, resolved, membership), *keys.lines, *offload]:
                say(line)
            for change in changes(before.config, resolved.config.model_dump(mode="json")) if before else []:
                say(f"Changed: {change}")
        progress = RunView()
        began = time.monotonic()
        with view(sys.stderr, plain=options.plain, quiet=options.quiet, verbose=options.verbose) as display:
            ending = supervise(node, resolved.config, display, progress, signals, secrets=keys.secrets, module=module)
        return _finish(node, resolved, progress, ending, elapsed=time.monotonic() - began, as_json=options.as_json)


def _agree(resolved: Resolved, prompter: Prompter) -> tuple[list[str], tuple[str, ...]]:
    """Return what is to be said of offloading, and the providers that the operator agreed to now.

    Raises the NodeError of what cannot work, or of what nobody agreed to.
    """
    if not is_offloaded(resolved.config):
        return [], ()
    retry = retry_with(resolved)
    files = lookup.files_of(resolved.config.node.name)
    nodes.check_free(files, retry)
    with retry_hint(resolved):
        found = plan(resolved.config, files.ledger)
        return banner(found), ask_consent(found, resolved, files, prompter)


def _check_tasks(resolved: Resolved) -> None:
    """Raise the TaskError that the trainer would find after ten seconds of imports."""
    with retry_hint(resolved):
        check_tasks(resolved.config.tasks)
        check_offload(resolved.config)


def _finish(
    node: nodes.Node, resolved: Resolved, progress: RunView, ending: TrainerExit, *, elapsed: float, as_json: bool
) -> Exit:
    say = Writer(sys.stderr)
    failed = True
    try:
        code = exit_code_for(ending, progress, node.files, resolved)
        failed = False
    finally:
        if not failed or progress.start is not None:
            for line in conclusion(node, resolved, progress, elapsed, failed=failed):
                say(line)
    if as_json:
        print(json.dumps(result(progress, node.name)), flush=True)
    return code
