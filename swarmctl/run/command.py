"""Run ``swarmctl run`` once its arguments are parsed."""

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError, FileProblem, NodeError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.judge import api_configs
from swarmctl.errors import Exit
from swarmctl.keys.for_run import keys_for
from swarmctl.nodes import directory as nodes
from swarmctl.nodes import lookup
from swarmctl.nodes.history import rounds_finished
from swarmctl.packages.environments import install_environments
from swarmctl.run import trainer_process as trainer
from swarmctl.run.background import BackgroundView, split
from swarmctl.run.dry_run import DryRun, dry_run, planned
from swarmctl.run.fetch_smollm2 import fetch_smollm2
from swarmctl.run.finished import finished, has_finished, say_finished
from swarmctl.run.join_swarm import CharterMembership, join, store_membership
from swarmctl.run.keep_running import KeepRunning
from swarmctl.run.mistyped import check_name, check_profile
from swarmctl.run.offload_plan import ask_consent, banner, plan, record_consent
from swarmctl.run.offload_server import with_server
from swarmctl.run.outcome import dry_hint, exit_code_for, retry_hint
from swarmctl.run.servers_down import check_command, is_unchanged, warnings_of
from swarmctl.run.summary import conclusion, introduction, still_member, suspended
from swarmctl.run.supervisor import StopSignals, Supervisor, TrainerExit
from swarmctl.serving.own_server import OwnServer, check_own_server, served
from swarmctl.serving.own_server import introduction as introduction_of
from swarmctl.settings.checks import check_config
from swarmctl.settings.command_line import (
    LastRun,
    always_starts_over,
    changes,
    read_last,
    rerun,
    resolved_options,
    write_last,
)
from swarmctl.settings.options import RunOptions
from swarmctl.settings.resolve import Resolved
from swarmctl.storage import disk_errors
from swarmctl.supervision.sleep import kept_awake
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.progress import RunView, result
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.sentences import several
from swarmctl.terminal.views import Display, Writer, view
from swarmctl.terminal.waiting import waiting


def run_command(options: RunOptions, *, module: str = trainer.MODULE) -> Exit:
    """Run a node until it ends. Raises the NodeError to print if it fails."""
    if not options.dry_run:
        return _run(options, module=module)
    with dry_hint():
        return _run(options, module=module)


def plan_of(options: RunOptions, *, module: str = trainer.MODULE) -> DryRun:
    """Return what ``run`` would do. Changes nothing. Raises the NodeError to print if it would fail."""
    resolved, membership = _resolved(options, Prompter(silent=True), module=module)
    return planned(resolved, membership, module=module)


def _resolved(
    options: RunOptions, prompter: Prompter, *, module: str, installs: Prompter | None = None
) -> tuple[Resolved, CharterMembership | None]:
    """Return the configuration of a run, after the checks that need no trainer. Raises NodeError."""
    resolved = resolved_options(options)
    with retry_hint(resolved):
        options = with_server(options, resolved, prompter)
    resolved, membership = join(resolved_options(options), Writer(sys.stderr), module=module)
    if installs is not None:
        install_environments(resolved.config.tasks, installs, f"{rerun(resolved)} --yes")
    say, unused = Writer(sys.stderr), list[str]()
    # What the trainer would only find after ten seconds of imports.
    with retry_hint(resolved), waiting(say, "checking the settings and tasks"):
        check_config(resolved.config, unused.append)
        check_own_server(resolved.config)
    for line in () if options.quiet else unused:
        say(line)
    return resolved, membership


def _run(options: RunOptions, *, module: str) -> Exit:
    say = Writer(sys.stderr)
    prompter = Prompter(yes=options.yes, silent=options.no_input or options.as_json)
    check_profile(options)
    check_name(options, prompter)
    asking = Prompter(silent=True) if options.dry_run else prompter  # a dry run saves no key
    resolved, membership = _resolved(options, asking, module=module, installs=prompter)
    if options.dry_run:
        return dry_run(options, resolved, membership, module=module)
    files = lookup.files_of(resolved.config.node.name)
    nodes.check_identity(files, resolved.config, partial(rerun, resolved))
    if (ended := finished(files, resolved, membership)) is not None:
        return say_finished(ended, resolved, as_json=options.as_json)
    _confirm_start_over(files, resolved, prompter)
    # First the cost, then the key, which may be typed now. If no one can type it, a missing key is named first.
    found = None if prompter.can_ask else keys_for(resolved.config, prompter, os.environ)
    offload, agreed = _agree(resolved, prompter)
    keys = found or keys_for(resolved.config, prompter, os.environ)
    fetch_smollm2(resolved.config, prompter, f"{rerun(resolved)} --yes")
    with StopSignals() as signals, nodes.opened(resolved.config, partial(rerun, resolved)) as node:
        before, first = _last_command(node, say), not (node.starts_over or has_finished(node.files))
        with disk_errors.disk_errors(node.files.root):
            record_consent(node.files, agreed)
            membership = membership and store_membership(node.files, membership)
            write_last(node.files, resolved)
        used = node.resumes and is_unchanged(resolved)
        for line in warnings_of(resolved.config, check_command(resolved), used=used):
            say(line)
        if not options.quiet:
            for line in [*introduction(node, resolved, membership), *keys.lines, *offload]:
                say(line)
            for change in changes(before.config, resolved.config.model_dump(mode="json")) if before else []:
                say(f"Changed: {change}")
            for line in _about_its_end(options, node.name, rerun(resolved)):
                say(line)
        leave = split(node.files, as_json=options.as_json) if options.detach else None
        progress = RunView()
        began = time.monotonic()
        with (
            kept_awake(os.getpid(), wanted=resolved.config.supervision.keep_awake),
            served(resolved.config, node.files) as server,
        ):
            config = resolved.config if server is None else server.config
            if server is not None:
                _start_server(server, say, signals, quiet=options.quiet)
            with _display(options, node.name, leave) as display:
                restarted = _is_restarted(options, config)
                supervisor = Supervisor(
                    *(node, display, progress, signals),
                    secrets=keys.secrets,
                    module=module,
                    hang_after=config.supervision.hang_after if restarted else 0,
                    look=tuple if server is None else server.look,
                )
                if restarted:
                    patient = not options.detach or options.unattended
                    settle = {} if server is None else {"settle": server.settle}
                    ending, gave_up = KeepRunning(supervisor, config, patient=patient, **settle).run()
                else:
                    ending, gave_up = supervisor.run(config), None
        elapsed = time.monotonic() - began
        code = _finish(node, resolved, membership, progress, ending, gave_up=gave_up, elapsed=elapsed, first=first)
        if options.as_json:
            print(json.dumps(result(progress, node.name)), flush=True)
        return code


def _start_server(server: OwnServer, say: Writer, signals: StopSignals, *, quiet: bool) -> None:
    """Start the node's own server and wait until it answers or the run is stopped. Raises a NodeError if it ends."""
    if not quiet:
        for line in introduction_of(server):
            say(line)
    server.start()
    with waiting(say, "starting the server, which loads the model"):
        server.wait(lambda: bool(signals.received))


def _is_restarted(options: RunOptions, config: Config) -> bool:
    """Whether the trainer is restarted after a failure."""
    chosen = config.supervision.restart
    return chosen == "on-failure" or (chosen == "auto" and (options.detach or options.unattended))


def _about_its_end(options: RunOptions, name: str, again: str) -> Iterator[str]:
    """Yield lines on what ends a run, or does not, if users may not expect it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        stop = typed(f"swarmctl stop {shlex.quote(name)}")
        yield f"This run is in the background, so Ctrl-C does not reach it. To stop it: {stop}"
    outlives = options.detach or options.unattended or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    outlives = outlives or not {"TMUX", "STY"}.isdisjoint(os.environ)  # tmux and screen keep it running
    if os.environ.get("SSH_CONNECTION") and sys.stderr.isatty() and not outlives:
        yield "This run ends with the SSH session. To keep it running in the background, stop it (Ctrl-C), then:"
        yield f"  {typed(f'{again} --detach')}"


def _display(options: RunOptions, node: str, leave: Callable[[], None] | None) -> Display:
    if leave is not None:
        return BackgroundView(leave, plain=options.plain, quiet=options.quiet, verbose=options.verbose)
    return view(
        sys.stderr,
        plain=options.plain,
        quiet=options.quiet,
        verbose=options.verbose,
        when_suspended=suspended(node),
    )


def _confirm_start_over(files: NodeFiles, resolved: Resolved, prompter: Prompter) -> None:
    """Ask before a command that starts over deletes finished rounds. Raises a NodeError if it must not."""
    rounds = rounds_finished(files) or 0
    if not rounds or not resolved.config.node.fresh or always_starts_over(resolved):
        return
    nodes.check_free(files, partial(rerun, resolved))
    name = files.root.name
    prompter.confirm(
        f"Node {name} has finished {several(rounds, 'round')}. Delete what it learned, and start over?",
        ConfigurationError(
            f"--fresh deletes what node {name} learned in {several(rounds, 'round')}; confirm it with --yes",
            next=f"{rerun(resolved)} --yes",
        ),
    )


def _last_command(node: nodes.Node, say: Writer) -> LastRun | None:
    """Return the command that a resumed node ran last; None, with a warning, if it is unknown."""
    try:
        return read_last(node.files) if node.resumes else None
    except FileProblem as error:
        say(f"warning: {error.message}. Cannot show which settings this command changes.")
        return None


def _agree(resolved: Resolved, prompter: Prompter) -> tuple[list[str], tuple[str, ...]]:
    """Return the lines to print about offloading, and the providers that the user has just agreed to.

    Raises a NodeError if the plan cannot work, or if no one agreed to its cost.
    """
    if not api_configs(resolved.config):
        return [], ()
    files = lookup.files_of(resolved.config.node.name)
    nodes.check_free(files, partial(rerun, resolved))
    with retry_hint(resolved):
        found = plan(resolved.config, files)
        assert found is not None
        return banner(found), ask_consent(found, resolved, files, prompter)


def _finish(
    node: nodes.Node,
    resolved: Resolved,
    membership: CharterMembership | None,
    progress: RunView,
    ending: TrainerExit,
    *,
    gave_up: NodeError | None,
    elapsed: float,
    first: bool,
) -> Exit:
    """Print how the run ended and return the exit code. Raises the NodeError of a trainer that failed."""
    say = Writer(sys.stderr)
    failed = True
    try:
        code = exit_code_for(ending, progress, node.files, resolved, gave_up)
        failed = False
        return code
    finally:
        if not failed or progress.start is not None:
            for line in conclusion(node, resolved, progress, elapsed, failed=failed, first=first):
                say(line)
        if failed and membership is not None and node.created and not progress.round:
            say(still_member(node.name, membership.charter.name))
