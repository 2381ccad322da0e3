"""A task for SkyPilot (``sky launch``)."""

from typing import Any

from swarmctl.launch.machines import INSTALL, Machines

HOW = "in a clone of the swarmctl repository: sky launch FILE"


def text(machines: Machines) -> str:
    """Return the file."""
    import yaml  # imported here: most commands do not need it

    task: dict[str, object] = {
        "name": machines.label,
        "num_nodes": machines.count,
        "workdir": ".",
    }
    if (gpu := machines.gpu) is not None:
        task["resources"] = {"accelerators": f"{gpu.name or f'{gpu.gigabytes}GB+'}:{machines.gpus}"}
    if machines.variables:
        task["secrets"] = dict.fromkeys(machines.variables)  # null: SkyPilot asks for --secret
    task["setup"] = "\n".join(["set -e", *INSTALL, *machines.installs]) + "\n"
    command = machines.command("$SKYPILOT_NODE_RANK")
    task["run"] = f'export PATH="$HOME/.local/bin:$PATH"\nexec {command}\n'
    secrets = "".join(f" --secret {name}" for name in machines.variables)
    return f"# Start it {HOW}{secrets}\n{yaml.dump(task, Dumper=_dumper(), sort_keys=False, width=1000)}"


def _dumper() -> type:
    """Return a YAML dumper that writes scripts as blocks of lines."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        """Writes text of several lines as a block."""

    def represent(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, represent)
    return Dumper
