"""A launch agent of macOS (``launchd.plist(5)``)."""

import os
import plistlib
import subprocess
from pathlib import Path

from swarmctl.nodes.installed_service import agent_file
from swarmctl.service.definition import RESTART_S, STOP_S, Service, key_variables

PROGRAM = "launchctl"
LOG = "service.log"
"""The file in the node's directory that gets what the service prints."""


def path(service: Service) -> Path:
    """Return the agent's file."""
    return agent_file(service.node)


def text(service: Service) -> str:
    """Return the agent's property list."""
    log = str(service.directory / LOG)
    agent = {
        "Label": service.name,
        # launchd restarts after any exit code but 0.
        "ProgramArguments": list(service.command(zero_if_final=True)),
        "KeepAlive": {"SuccessfulExit": False},
        "RunAtLoad": True,
        "ThrottleInterval": RESTART_S,
        "ExitTimeOut": STOP_S,
        "ProcessType": "Interactive",  # others get less CPU time and slower disk access
        "WorkingDirectory": str(Path.home()),
        "StandardOutPath": log,
        "StandardErrorPath": log,
        "EnvironmentVariables": {**service.environment, **key_variables(service.key_files)},
    }
    return plistlib.dumps(agent, sort_keys=False).decode()


def activate(service: Service) -> list[list[str]]:
    """Return the commands that start the service now and at every login."""
    return [[PROGRAM, "bootstrap", _domain(), str(path(service))]]


def deactivate(service: Service) -> list[list[str]]:
    """Return the commands that stop the service."""
    return [[PROGRAM, "bootout", f"{_domain()}/{service.name}"]]


def after_removal() -> list[list[str]]:
    """Return the commands to run once the agent's file is deleted: none."""
    return []


def state(service: Service) -> str | None:
    """Return what launchd says about the service, such as ``running``; None if it does not know it."""
    done = subprocess.run(
        [PROGRAM, "print", f"{_domain()}/{service.name}"], capture_output=True, text=True, check=False
    )
    lines = (line.strip() for line in done.stdout.splitlines())
    found = next((line.partition("=")[2].strip() for line in lines if line.startswith("state =")), "loaded")
    return None if done.returncode else found


def _domain() -> str:
    return f"gui/{os.getuid()}"
