"""A task for dstack (``dstack apply``)."""

from swarmctl.launch.machines import INSTALL, Machines

HOW = "in a clone of the swarmctl repository: dstack apply -f FILE"
IMAGE = "python:3.12"
"""Has a C compiler and pip. Torch brings its own CUDA libraries; dstack adds the driver."""
PLACE = "/workflow"
STOP = "2m"
"""How long a node may take to save and stop."""


def text(machines: Machines) -> str:
    """Return the file."""
    import yaml  # imported here: most commands do not need it

    task: dict[str, object] = {
        "type": "task",
        "name": machines.label,
        "nodes": machines.count,
        "image": IMAGE,
        "files": [f".:{PLACE}"],
        "working_dir": PLACE,
        "stop_duration": STOP,
    }
    if machines.variables:
        task["env"] = list(machines.variables)  # without values: dstack takes those of the shell
    task["commands"] = [*INSTALL, *machines.installs, f"exec {machines.command('$DSTACK_NODE_RANK')}"]
    if (gpu := machines.gpu) is not None:
        kind = gpu.name or f"{gpu.gigabytes}GB.."
        task["resources"] = {"gpu": f"{kind}:{machines.gpus}"}
    return f"# Start it {HOW}\n{yaml.safe_dump(task, sort_keys=False, width=1000)}"
