"""The arguments of ``swarmctl launch``."""

from typing import Annotated

import typer

from swarmctl.settings.offload_target import offload_flags, serve_flags
from swarmctl.settings.options import FLAGS, RunOptions, tasks_text
from swarmctl.terminal import options


def register(app: typer.Typer) -> None:
    """Add the command to the command tree."""
    app.command("launch")(_launch)


def _launch(
    node: Annotated[
        str | None, typer.Argument(metavar="NODE", help="A node on this machine, whose swarm the new nodes join.")
    ] = None,
    *,
    print_: Annotated[str, typer.Option("--print", metavar="KIND", help="sky, dstack, slurm or compose.")],
    nodes: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Number of new nodes.")] = 1,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="GPU",
            help="GPU of each node: a model such as H100, memory such as 24GB, or none. "
            "[default: 24GB, or none if the nodes would not use a GPU]",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the new nodes; a number is added. [default: the swarm's]"),
    ] = None,
    join: Annotated[
        str | None, typer.Option(metavar="INVITATION", help="Join a swarm with an invitation, instead of NODE's.")
    ] = None,
    profile: options.Profile = None,
    task: options.Tasks = None,
    model: options.Model = None,
    rounds: Annotated[int | None, typer.Option(min=0, metavar="N", help="Total rounds of each node.")] = None,
    offload: options.Offload = None,
    serve: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Each node starts a server of its weights: vllm or sglang."),
    ] = None,
    max_usd: Annotated[
        str | None,
        typer.Option("--max-usd", metavar="USD", help="The most each node may spend in total, or unlimited."),
    ] = None,
    set_: options.Settings = None,
    json: options.Json = False,
) -> None:
    """Print a file that starts nodes on other machines.

    With the file, SkyPilot, dstack, Slurm or Docker Compose starts the nodes; this command only prints it. The file
    contains the swarm's invitation, but no keys: it names the environment variables that hold them.

    \b
    Examples:
      swarmctl launch maths --print sky --nodes 4 --gpu H100 > swarm.yaml
      swarmctl launch --join swarm1:4be1… --print slurm --nodes 8 --profile gpu > swarm.sbatch
      swarmctl launch maths --print dstack --offload openai:gpt-6-luna --max-usd 2 > swarm.dstack.yml
      swarmctl launch maths --print sky --gpu H100 --set model.lora.rank=16 --serve vllm > swarm.yaml
      swarmctl launch --print compose --profile gpu --task gsm8k > compose.yaml
    """
    from swarmctl.errors import UsageError
    from swarmctl.launch.command import LaunchOptions, Target, launch

    if print_ not in {*Target}:
        raise UsageError(
            f"invalid --print: {print_!r}. Use sky, dstack, slurm or compose", next="swarmctl launch --help"
        )
    if node is not None and join is not None:
        raise UsageError("NODE and --join both name a swarm; use one of them", next="swarmctl launch --help")
    if serve is not None and offload is not None:
        text = "--serve starts a server that generates; use either --serve or --offload"
        raise UsageError(text, next="swarmctl launch --help")
    settings = {
        "--task": tasks_text(task),
        "--model": model,
        "--rounds": rounds,
        "--max-usd": max_usd,
        "--join": join,
    }
    flags = [(flag, FLAGS[flag], str(value)) for flag, value in settings.items() if value is not None]
    flags += [*offload_flags(offload, set_ or ()), *serve_flags(serve)]
    run = RunOptions(profile=profile, flags=tuple(flags), assignments=tuple(set_ or ()))
    launch(LaunchOptions(Target(print_), node, name, nodes, gpu, run, json))
