"""Print a file with which another program starts nodes on other machines. Starts nothing."""

import shlex
import sys
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError, IdentityProblem
from hivemind_exp.foreign_text import foreign
from hivemind_exp.offload.judge import endpoints_of
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.proxies import is_loopback
from hivemind_exp.source_kinds import POLICY_SERVER, Kind
from hivemind_exp.swarm.invitation import parse
from swarmctl.errors import UsageError
from swarmctl.launch import compose, dstack, sky, slurm
from swarmctl.launch.machines import GpuRequest, Machines
from swarmctl.nodes.lookup import readable
from swarmctl.run.servers_down import not_started_here
from swarmctl.serving.gpus import Place
from swarmctl.serving.registry import server_engine
from swarmctl.settings.command_line import JOIN, portable_arguments, read_last, resolved_options
from swarmctl.settings.options import RunOptions
from swarmctl.settings.schema import dotted
from swarmctl.swarm.invite import invitation, only_here, reach, without_loopback
from swarmctl.swarm.member import Member, member
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.views import Writer


class Target(StrEnum):
    """What starts the nodes."""

    SKY = "sky"
    DSTACK = "dstack"
    SLURM = "slurm"
    COMPOSE = "compose"


_CAP = ("offload", "limits", "usd")
_MODULES: dict[Target, ModuleType] = {
    Target.SKY: sky,
    Target.DSTACK: dstack,
    Target.SLURM: slurm,
    Target.COMPOSE: compose,
}


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """The command line of ``launch``."""

    kind: Target
    node: str | None
    """A node on this machine whose swarm the new nodes join."""
    name: str | None
    """The new nodes' common name."""
    count: int
    gpu: str | None
    """As typed; see ``GpuRequest.parse``. None: chosen by the settings."""
    run: RunOptions
    """Settings of the new nodes."""
    as_json: bool


def launch(options: LaunchOptions) -> None:
    """Print the file.

    Raises ConfigurationError if the nodes could not run with these settings on another machine, or could not reach
    each other.
    """
    say = Writer(sys.stderr)
    run, name = options.run, options.name
    if options.node is not None:
        _check_member(options.node, options.kind)
        found = member(options.node, "invite")
        run, name = _invited(found, run, options.kind, say), name or found.charter.name
    resolved = resolved_options(run)
    config, has_cap = resolved.config, dotted(_CAP) in resolved.origins
    if options.kind is not Target.COMPOSE:  # which starts all nodes on one machine
        config = _for_other_machines(config, say)
    name = name or config.node.name
    if options.count > 1 and not config.swarm.join:
        raise UsageError(
            "several nodes need a swarm; without one, all would do the same. Name a node in a swarm, or use --join",
            next="swarmctl swarm new my-swarm",
        )
    installs = _installs(config, options.kind)
    _check_portable(config, has_cap=has_cap)
    machines = Machines(
        name,
        options.count,
        GpuRequest.parse(options.gpu or ("24GB" if _uses_a_gpu(config) else "none")),
        # A cap that equals the default is consent all the same.
        portable_arguments(config, {_CAP: config.offload.limits.usd} if has_cap else {}),
        _variables(config),
        config.train.processes,
        installs,
    )
    module = _MODULES[options.kind]
    content = module.text(machines)
    if config.swarm.join:
        say("The file contains the invitation: anyone who has it can join the swarm.")
    if has_cap and endpoints_of(config) and options.count > 1:
        cap = config.offload.limits.usd
        spent = "any amount" if cap == "unlimited" else f"up to {cap:g} USD"
        say(f"Each of the {options.count} nodes may spend {spent}.")
    say(f"Start it {module.HOW}")
    if options.as_json:
        print_json(kind=str(options.kind), name=name, nodes=options.count, text=content)
    else:
        print(content, end="", flush=True)


def _uses_a_gpu(config: Config) -> bool:
    """Whether nodes with these settings would use a GPU: a relay has no model, and ``cpu`` is a choice."""
    return config.model.device != "cpu" and config.offload.counts_as is not Kind.RELAY


def _check_member(name: str, kind: Target) -> None:
    """Check that a node is in a swarm. Raises ConfigurationError, which suggests to launch without it."""
    files = readable(name)
    if files.charter.exists():
        return
    last = read_last(files)
    profile = ["--profile", last.profile] if last else []
    raise ConfigurationError(
        f"node {name} is not in a swarm. Create one with `swarmctl swarm new NAME`, or leave out the node to start one "
        "that trains alone",
        next=shlex.join(["swarmctl", "launch", *profile, "--print", kind]),
    )


def _invited(node: Member, run: RunOptions, kind: Target, say: Writer) -> RunOptions:
    """Return the options with a node's invitation, and with its profile unless another one is named."""
    if node.peer is None:
        raise IdentityProblem(
            f"cannot read the key of node {node.name}", next=f"swarmctl identity show --node {node.name}"
        )
    line = invitation(node.files, node.settings, node.charter.id, node.peer)
    if only_here(line) and kind is not Target.COMPOSE:
        raise ConfigurationError(
            f"node {node.name} can be reached from this machine only",
            next=f"swarmctl run --node {node.name} --set swarm.loopback=false",
        )
    say(reach(line, node.settings))
    if not node.running:
        say(f"Node {node.name} is not running. Start it before the others.")
    last = read_last(node.files)
    return replace(
        run,
        profile=run.profile or (last.profile if last else None),
        flags=(*run.flags, ("--join", dotted(JOIN), str(line))),
    )


def _for_other_machines(config: Config, say: Writer) -> Config:
    """Return a configuration without ``swarm.loopback`` and without loopback addresses in the invitation.

    Raises ConfigurationError if the invitation has no other addresses.
    """
    swarm = config.swarm
    if swarm.loopback:
        say("The file leaves out swarm.loopback: with it, nodes on different machines could not reach each other.")
        swarm = swarm.model_copy(update={"loopback": False})
    if swarm.join:
        line = parse(swarm.join)
        if line.addresses and only_here(line):
            raise ConfigurationError(
                "the invitation has only addresses that can be reached from this machine alone. Use one from a node "
                "that other machines can reach",
                next="swarmctl swarm invite",
            )
        swarm = swarm.model_copy(update={"join": str(without_loopback(line))})
    return config.model_copy(update={"swarm": swarm})


def _installs(config: Config, kind: Target) -> list[str]:
    """Return the commands that install the program of the server that each node starts; none without one.

    Raises ConfigurationError if the nodes could not start it, or could not push their weights to another one.
    """
    serving = config.offload.serving
    if config.offload.kind != POLICY_SERVER:
        return []
    engine = server_engine(config)
    if serving.command and kind is not Target.COMPOSE:
        try:
            engine.arguments(config, 1, Place(None, shared=False, turns=serving.turns == "on", why=""))
        except ConfigurationError as error:  # its suggestion is for a run on this machine
            raise ConfigurationError(error.message, next="swarmctl launch --help") from error
    if kind is Target.SLURM:  # whose machines share a file system
        return []
    own = f"swarmctl launch --print {kind} --serve {engine.name}"
    if not serving.command:
        if not serving.folder:
            raise ConfigurationError(
                f"with offload.kind = {POLICY_SERVER}, the server reads what the nodes push from a directory, and it "
                "cannot read the other machines' own. Set offload.serving.folder to one that all of them have, or let "
                "each node start a server",
                next=own if kind is not Target.COMPOSE else "swarmctl launch --help",
            )
        return []
    if kind is Target.COMPOSE:
        raise ConfigurationError(
            f"swarmctl's image has no {engine.title}, so nodes in containers cannot start a server of their own "
            "(--serve). On an NVIDIA GPU, they generate fast without one",
            next="swarmctl launch --print compose",
        )
    if serving.command != engine.name:
        raise ConfigurationError(
            f"offload.serving.command is a program of this machine ({foreign(serving.command)}), which the other "
            f"machines do not have. {engine.title} is installed there if the command is {engine.name}",
            next=own,
        )
    return [engine.install]


def _check_portable(config: Config, *, has_cap: bool) -> None:
    """Check that a configuration needs nothing that only this machine has: no file, no address, no prompt.

    ``has_cap``: whether a spending cap was set. Raises ``ConfigurationError``.
    """
    model = config.model.name
    if Path(model).expanduser().is_dir():
        raise ConfigurationError(
            f"model.name is a directory on this machine ({model}), which the other machines do not have. Push the "
            "model to the Hugging Face hub, and use its id",
            next="swarmctl launch --help",
        )
    paths = [task.path for task in config.tasks if task.path]
    if paths and not config.swarm.join:
        raise ConfigurationError(
            f"the task reads a file on this machine ({paths[0]}), which the other machines do not have",
            next="swarmctl launch --help",
        )
    for endpoint in not_started_here(config):
        host = urlsplit(endpoint.base_url).hostname or ""
        if is_loopback(host):
            raise ConfigurationError(
                f"{endpoint.base_url} can be reached from this machine only. Use one that the other machines can reach",
                next="swarmctl launch --help",
            )
        if endpoint.needs_key and endpoint.name not in PROVIDERS:
            raise ConfigurationError(
                f"{endpoint.name} needs a key, and no environment variable can pass it to another machine. Save the "
                "key there first",
                next=f"swarmctl keys set {endpoint.name} --host {endpoint.base_url}",
            )
        if endpoint.needs_key and not has_cap:
            raise ConfigurationError(
                f"{endpoint.name} costs money, and the other machines cannot ask you. Set a spending cap per "
                "node with --max-usd",
                next="swarmctl launch --help",
            )


def _variables(config: Config) -> list[str]:
    """Return the environment variables with the keys that a node needs."""
    names = [endpoint.name for endpoint in endpoints_of(config) if endpoint.needs_key]
    if config.hub.repo:
        names.append("huggingface")
    return list(dict.fromkeys(PROVIDERS[name].variables[0] for name in names))
