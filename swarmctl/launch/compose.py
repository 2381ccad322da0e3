"""A file for ``docker compose up``: several nodes on one machine, each in a container and with a GPU of its own."""

import shlex

from swarmctl.launch.machines import Machines
from swarmctl.service.definition import STOP_S

HOW = "on a machine with the image: docker compose -f FILE up --detach"
RESTARTS = 3
"""How often Docker restarts a container. swarmctl restarts a trainer by itself; this is for what it cannot help."""


def text(machines: Machines) -> str:
    """Return the file."""
    import yaml  # imported here: most commands do not need it

    image = "swarmctl" if machines.gpu is None else "swarmctl:cuda"
    services = {f"{machines.label}-{number}": _service(machines, number, image) for number in range(machines.count)}
    file = {"name": machines.label, "services": services, "volumes": {"swarmctl": {}}}
    head = f"# Build the image {image} first (see the Dockerfile), then start it {HOW}\n"
    return f"{head}{yaml.safe_dump(file, sort_keys=False, width=1000)}"


def _service(machines: Machines, number: int, image: str) -> dict[str, object]:
    words = shlex.split(machines.command(str(number)))[1:]  # the image starts swarmctl
    service: dict[str, object] = {
        "image": image,
        "command": [word.replace("$", "$$") for word in words],  # Compose replaces variables
        "restart": f"on-failure:{RESTARTS}",
        "init": True,
        "stop_grace_period": f"{STOP_S}s",
        "network_mode": "host",  # peers reach a node at this machine's addresses
        "volumes": ["swarmctl:/data"],
    }
    if machines.variables:
        service["environment"] = list(machines.variables)  # without values: Compose takes those of the shell
    if machines.gpu is not None:
        own = range(number * machines.gpus, (number + 1) * machines.gpus)
        device = {"driver": "nvidia", "device_ids": list(map(str, own)), "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return service
