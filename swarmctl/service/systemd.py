"""A user service of systemd (``systemd.service(5)``)."""

import subprocess
from pathlib import Path

from swarmctl.nodes.installed_service import unit_file
from swarmctl.service.definition import FINAL, RESTART_S, STOP_S, Service

PROGRAM = "systemctl"
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "%": "%%"})


def path(service: Service) -> Path:
    """Return the unit's file."""
    return unit_file(service.node)


def text(service: Service) -> str:
    """Return the unit."""
    command = " ".join(_word(word).replace("$", "$$") for word in service.command(zero_if_final=False))
    lines = [
        "# Written by swarmctl service install.",
        "[Unit]",
        f"Description=swarmctl node {service.node.translate(_ESCAPES)}",
        # swarmctl gives up on a trainer by itself. This limits restarts of swarmctl.
        "StartLimitIntervalSec=1h",
        "StartLimitBurst=10",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={command}",
        "WorkingDirectory=~",
        *(f"Environment={_word(f'{name}={value}')}" for name, value in service.environment.items()),
        # A directive that takes one path is not quoted, but has specifiers.
        *(f"LoadCredential={name}:{str(file).replace('%', '%%')}" for name, file in service.key_files.items()),
        "Restart=on-failure",
        f"RestartSec={RESTART_S}",
        f"RestartPreventExitStatus={' '.join(str(int(code)) for code in FINAL)}",
        "# SIGTERM goes to swarmctl alone, which stops its trainer.",
        "KillMode=mixed",
        f"TimeoutStopSec={STOP_S}",
        "# If the kernel kills the trainer because memory ran out, swarmctl restarts it with smaller batches.",
        "OOMPolicy=continue",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def _word(word: str) -> str:
    return f'"{word.translate(_ESCAPES)}"'


def activate(service: Service) -> list[list[str]]:
    """Return the commands that start the service now and at every boot."""
    return [_systemctl("daemon-reload"), _systemctl("enable", "--now", f"{service.name}.service")]


def deactivate(service: Service) -> list[list[str]]:
    """Return the commands that stop the service."""
    return [_systemctl("disable", "--now", f"{service.name}.service")]


def after_removal() -> list[list[str]]:
    """Return the commands to run once the unit's file is deleted."""
    return [_systemctl("daemon-reload")]


def state(service: Service) -> str | None:
    """Return what systemd says about the service, such as ``active (running)``; None if it does not know."""
    fields = "--property=LoadState,ActiveState,SubState"
    done = subprocess.run(
        [*_systemctl("show", fields, f"{service.name}.service")], capture_output=True, text=True, check=False
    )
    values = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if done.returncode or values.get("LoadState") != "loaded":
        return None
    return f"{values['ActiveState']} ({values['SubState']})"


def lingers(user: str, directory: Path = Path("/var/lib/systemd/linger")) -> bool:
    """Whether a user's services run while the user is not logged in."""
    return (directory / user).exists()


def _systemctl(*arguments: str) -> list[str]:
    return [PROGRAM, "--user", *arguments]
