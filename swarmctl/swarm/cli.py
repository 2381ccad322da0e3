"""``swarmctl swarm``: new, show, invite, peers, leaderboard, leave."""

from typing import Annotated, Literal

import typer

from swarmctl.terminal import options
from swarmctl.terminal.help import command_group

NodeOption = Annotated[
    str | None, typer.Option("--node", metavar="NODE", help="Node. [default: the only one that is in a swarm]")
]
group = command_group(
    """Found a swarm, invite others, and see who is in it. To join one: `swarmctl run --join INVITATION`.

    Nodes of a swarm train on the same questions and learn from each other's answers, each of which they verify
    themselves. Nobody leads and nobody has to be trusted.

    Examples:
      swarmctl swarm new tea --task sapo
      swarmctl swarm peers
    """
)


@group.command("new")
def _new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the swarm, and of its first node.")],
    *,
    profile: Annotated[
        str | None, typer.Option("-p", "--profile", metavar="PROFILE", help="Profile: how the first node runs.")
    ] = None,
    task: options.Tasks = None,
    game: Annotated[
        Literal["sampling", "study-group"] | None, typer.Option(help="What a round is. [default: the profile's]")
    ] = None,
    stage_time: Annotated[
        int | None,
        typer.Option(min=5, max=86_400, metavar="SECONDS", help="Seconds of a stage of the game study-group."),
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open", help="Strangers will join: all peers together fill a part of each batch.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting of the first node; may be repeated."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Found a swarm: sign its charter, make its first node, print the one line with which others join.

    The charter fixes tasks, game and group size for ever. Nothing runs yet.

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


@group.command("show")
def _show(*, node: NodeOption = None, json: options.Json = False) -> None:
    """Show a swarm's charter, and this machine's node in it.

    Examples:
      swarmctl swarm show
      swarmctl swarm show --node tea --json
    """
    from swarmctl.swarm.show import show

    show(node, as_json=json)


@group.command("invite")
def _invite(*, node: NodeOption = None, json: options.Json = False) -> None:
    """Print the line with which others join, with this machine's addresses and those of a few peers.

    Who has the line is in: give it to those you want. It stays valid; addresses may change.

    Examples:
      swarmctl swarm invite
      swarmctl swarm invite --node tea --json
    """
    from swarmctl.swarm.invite import invite

    invite(node, as_json=json)


@group.command("peers")
def _peers(*, node: NodeOption = None, json: options.Json = False) -> None:
    """List the peers that the node knows: when it heard of them, what they gave, how far they can be relied on.

    Examples:
      swarmctl swarm peers
      swarmctl swarm peers --node tea --json
    """
    from swarmctl.swarm.peers import peers

    peers(node, as_json=json)


@group.command("leaderboard")
def _leaderboard(*, node: NodeOption = None, json: options.Json = False) -> None:
    """Rank peers by what the node learned from them. Shows contribution, not proof of anything.

    Each node counts for itself what it verified and used; two nodes may well show two orders.

    Examples:
      swarmctl swarm leaderboard
      swarmctl swarm leaderboard --node tea --json
    """
    from swarmctl.swarm.peers import leaderboard

    leaderboard(node, as_json=json)


@group.command("leave")
def _leave(*, node: NodeOption = None, json: options.Json = False) -> None:
    """Leave a swarm: the node goes on alone with what it learned. Its key, journal and checkpoints stay.

    Examples:
      swarmctl swarm leave --node tea
      swarmctl swarm leave --node tea --json
    """
    from swarmctl.swarm.leave import leave

    leave(node, as_json=json)
