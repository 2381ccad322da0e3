"""A batch script for Slurm (``sbatch``).

The cluster's machines must have this program and the nodes' directory under the same paths.
"""

import os
import shlex

from swarmctl.launch.machines import Machines
from swarmctl.paths import HOME_VARIABLE
from swarmctl.terminal.command_line import program

HOW = "with sbatch FILE"
SAVE_S = 120
"""Seconds between the signal to save and stop, and the end of the job's time."""


def text(machines: Machines) -> str:
    """Return the file."""
    options = {
        "job-name": machines.label,
        "ntasks": str(machines.count),
        "signal": f"TERM@{SAVE_S}",
        "requeue": None,
        "open-mode": "append",
        "output": f"{machines.label}-%j.log",
    }
    if (gpu := machines.gpu) is not None:
        options["gpus-per-task"] = f"{gpu.name.lower()}:{machines.gpus}" if gpu.name else str(machines.gpus)
    lines = ["#!/bin/bash", "# Start it with sbatch; add --partition, --account and --time as your cluster needs them."]
    if gpu is not None and gpu.gigabytes is not None:
        lines.append(
            f"# Slurm cannot select a GPU by its memory: choose a partition whose GPUs have {gpu.gigabytes} GB."
        )
    lines += [f"#SBATCH --{name}" + ("" if value is None else f"={value}") for name, value in options.items()]
    lines.append("")
    if machines.variables:
        lines.append(f"# The job gets your shell's variables, so first set {' and '.join(machines.variables)}.")
    if home := os.environ.get(HOME_VARIABLE):
        lines.append(f"export {HOME_VARIABLE}={shlex.quote(os.path.abspath(os.path.expanduser(home)))}")
    # The shell of each task fills in the task's number.
    command = machines.command("$SLURM_PROCID", program())
    lines.append(f"srun --label --kill-on-bad-exit=0 bash -c {shlex.quote(f'exec {command}')}")
    return "\n".join(lines) + "\n"
