"""``swarmctl swarm``: new, join, list, show, invite, peers, leaderboard, leave."""

from typing import Annotated, Literal

import typer

from swarmctl.terminal import options
from swarmctl.terminal.help import command_group

NodeOption = Annotated[
    str | None, typer.Option("--node", metavar="NODE", help="Node to use. [default: the only one in a swarm]")
]
group = command_group(
    """Create a swarm, invite others and see who is in it.

    The nodes of a swarm train on the same questions and learn from each other's answers. Each node verifies all answers
    itself. There is no leader, and no peer has to be trusted.

    Examples:
      swarmctl swarm new tea --task sapo
      swarmctl swarm join swarm1:… --node mine
      swarmctl swarm peers
    """
)


@group.command("new")
def _new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the swarm and of its first node.")],
    *,
    profile: Annotated[
        str | None, typer.Option("-p", "--profile", metavar="PROFILE", help="Profile of the first node.")
    ] = None,
    task: options.Tasks = None,
    game: Annotated[
        Literal["sampling", "study-group"] | None,
        typer.Option(metavar="GAME", help="sampling or study-group. [default: the profile's]"),
    ] = None,
    stage_time: Annotated[
        int | None,
        typer.Option(min=5, max=86_400, metavar="SECONDS", help="Seconds per stage of the study-group game."),
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open", help="Let anyone join; peers fill at most a quarter of each batch.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change any setting of the first node (repeatable)."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Create a swarm and its first node.

    Signs the swarm's charter and prints the command that others use to join. The charter permanently fixes the tasks,
    the game, the group size and whether nodes may use game.curriculum. The node is not started yet.

    Examples:
      swarmctl swarm new tea
      swarmctl swarm new tea --task gsm8k --profile gpu
      swarmctl swarm new tea --game study-group --stage-time 120
    """
    from swarmctl.settings.options import RunOptions
    from swarmctl.swarm.new import new_swarm

    flags = (("--task", "tasks", ",".join(task or ())), ("--game", "game.kind", game or ""))
    given = RunOptions(
        profile=profile,
        node=name,
        flags=tuple(flag for flag in flags if flag[-1]),
        assignments=tuple(set_ or ()),
        as_json=json,
    )
    new_swarm(name, given, stage_time=stage_time, is_open=open_)


@group.command("join")
def _join(
    invitation: Annotated[str, typer.Argument(metavar="INVITATION", help="From `swarmctl swarm invite`.")],
    *,
    node: Annotated[
        str | None, typer.Option(metavar="NODE", help="Name of the new node. [default: the swarm's]")
    ] = None,
    profile: options.Profile = None,
    task: options.Tasks = None,
    set_: options.Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan; change nothing.")] = False,
    detach: Annotated[
        bool, typer.Option("-d", "--detach", help="Continue in the background once the node has started.")
    ] = False,
    plain: options.Plain = False,
    json: options.JsonAskingNothing = False,
    yes: options.Yes = False,
    no_input: options.NoInput = False,
) -> int:
    """Join a swarm: create a node in it, and start the node.

    The same as `swarmctl run --join INVITATION`, which has more options. To resume the node later, use
    `swarmctl run --node NODE`.

    Examples:
      swarmctl swarm join swarm1:4be1…@/ip4/203.0.113.7/tcp/4001/p2p/12D3Koo… --node mine
      swarmctl swarm join swarm1:4be1…@/dns4/example.org/tcp/4001/p2p/12D3Koo… --profile gpu --detach
    """
    from swarmctl.run.command import run_command
    from swarmctl.settings.options import RunOptions, tasks_text

    given = {"--join": ("swarm.join", invitation), "--task": ("tasks", tasks_text(task))}
    return run_command(
        RunOptions(
            profile=profile,
            node=node,
            flags=tuple((flag, key, text) for flag, (key, text) in given.items() if text is not None),
            assignments=tuple(set_ or ()),
            dry_run=dry_run,
            detach=detach,
            plain=plain,
            as_json=json,
            yes=yes,
            no_input=no_input,
        )
    )


@group.command("list")
def _list(*, json: options.Json = False) -> None:
    """List the swarms that this machine's nodes are in.

    Examples:
      swarmctl swarm list
      swarmctl swarm list --json
    """
    from swarmctl.swarm.list import list_swarms

    list_swarms(as_json=json)


@group.command("show")
def _show(name: options.NodeName = None, *, node: NodeOption = None, json: options.Json = False) -> None:
    """Show a swarm's charter and this machine's node in it.

    Examples:
      swarmctl swarm show
      swarmctl swarm show tea --json
    """
    from swarmctl.nodes.lookup import one_name
    from swarmctl.swarm.show import show

    show(one_name(name, node), as_json=json)


@group.command("invite")
def _invite(name: options.NodeName = None, *, node: NodeOption = None, json: options.Json = False) -> None:
    """Print the command that others use to join.

    The command contains the addresses of this machine and of a few peers. Anyone who has it can join, so only share it
    with people you want in the swarm. It works as long as a node can be reached at one of these addresses.

    Examples:
      swarmctl swarm invite
      swarmctl swarm invite tea --json
    """
    from swarmctl.nodes.lookup import one_name
    from swarmctl.swarm.invite import invite

    invite(one_name(name, node), as_json=json)


@group.command("peers")
def _peers(name: options.NodeName = None, *, node: NodeOption = None, json: options.Json = False) -> None:
    """List the peers that the node knows.

    Shows when each peer last shared something, what it shared and how reliable it is.

    Examples:
      swarmctl swarm peers
      swarmctl swarm peers tea --json
    """
    from swarmctl.nodes.lookup import one_name
    from swarmctl.swarm.peers import peers

    peers(one_name(name, node), as_json=json)


@group.command("leaderboard")
def _leaderboard(name: options.NodeName = None, *, node: NodeOption = None, json: options.Json = False) -> None:
    """Rank peers by what the node learned from them.

    The ranking is not proof: each node counts only what it verified and used itself, so two nodes may rank peers
    differently.

    Examples:
      swarmctl swarm leaderboard
      swarmctl swarm leaderboard tea --json
    """
    from swarmctl.nodes.lookup import one_name
    from swarmctl.swarm.peers import leaderboard

    leaderboard(one_name(name, node), as_json=json)


@group.command("leave")
def _leave(
    name: options.NodeName = None,
    *,
    node: NodeOption = None,
    yes: options.Yes = False,
    no_input: options.NoInput = False,
    json: options.JsonAskingNothing = False,
) -> None:
    """Leave a swarm and continue alone.

    Asks first. The node keeps what it learned, and its key, journal and checkpoints.

    Examples:
      swarmctl swarm leave tea
      swarmctl swarm leave tea --yes --json
    """
    from swarmctl.nodes.lookup import one_name
    from swarmctl.swarm.leave import leave

    leave(one_name(name, node), yes=yes, no_input=no_input, as_json=json)
