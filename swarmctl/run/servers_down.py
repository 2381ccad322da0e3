"""Which of the operator's own servers, that a run would ask, accept no connection."""

import shlex
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from hivemind_exp.config import Config
from hivemind_exp.connection_errors import reason_for
from hivemind_exp.offload.judge import endpoints_of
from hivemind_exp.offload.settings import Endpoint, replica_endpoints
from hivemind_exp.proxies import proxy_for
from hivemind_exp.source_kinds import POLICY_SERVER
from swarmctl.nodes.lookup import files_of
from swarmctl.serving.by_hand import start_command
from swarmctl.settings.command_line import settings_arguments
from swarmctl.settings.resolve import Resolved
from swarmctl.settings.sources import REMEMBERED
from swarmctl.terminal.command_line import typed

_CONNECT_S = 3.0
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class ServerDown:
    """A server that accepts no connection."""

    endpoint: Endpoint
    reason: str

    def text(self, config: Config, check: str, *, used: bool = False) -> tuple[str, str]:
        """Return what is wrong and what to do, and the command for it: the one that starts the server, or ``check``.

        ``config``: that of the run. ``used``: whether the node has used the server before, so that it is known whether
        it needs a key.
        """
        start = start_command(config, self.endpoint)
        remedy = "To start it" if start else "Start the server, then check it"
        keyless = config.offload.kind == POLICY_SERVER and self.endpoint in replica_endpoints(config)
        unknown = "" if used or keyless else ", so it is unknown whether the server needs a key"
        told = f"{self.endpoint.base_url} accepts no connection ({self.reason}){unknown}. {remedy}:"
        return told, start or typed(check)


def is_unchanged(resolved: Resolved) -> bool:
    """Whether a node's last run used the same providers, so that its name stands for their settings."""
    changed = {each.path[0] for each in resolved.overrides if each.origin != REMEMBERED}
    return files_of(resolved.config.node.name).root.is_dir() and changed.isdisjoint({"offload", "providers", "judge"})


def check_command(resolved: Resolved) -> str:
    """Return the command that checks the providers of a run."""
    if is_unchanged(resolved):
        return shlex.join(["swarmctl", "doctor", "api", "--node", resolved.config.node.name])
    return shlex.join(["swarmctl", "doctor", "api", *settings_arguments(resolved)])


def warnings_of(config: Config, check: str, *, used: bool = False) -> list[str]:
    """Return the lines about each server that accepts no connection: a warning, and the command to type.

    ``check``: the command that checks the servers. ``used``: as for ``ServerDown.text``.
    """
    found = [each.text(config, check, used=used) for each in servers_down(not_started_here(config))]
    return [line for text, command in found for line in (f"warning: {text}", f"  {command}")]


def not_started_here(config: Config) -> list[Endpoint]:
    """Return the endpoints that a run asks, without the server that it starts itself."""
    own = replica_endpoints(config) if config.offload.serving.command else []
    return [each for each in endpoints_of(config) if each not in own]


def servers_down(endpoints: Iterable[Endpoint]) -> list[ServerDown]:
    """Return the servers that accept no connection, one for each base URL. Only connects: sends nothing.

    Hosted services, which need a key, are left out, and so is what is behind a proxy. Raises ConfigurationError if the
    proxy's settings are invalid.
    """
    own = {each.base_url: each for each in reversed([*endpoints]) if not each.needs_key}  # the first of each URL
    return [
        ServerDown(each, reason)
        for url, each in reversed(own.items())
        if proxy_for(url) is None and (reason := _refusal(url)) is not None
    ]


def _refusal(url: str) -> str | None:
    parts = urlsplit(url)
    try:
        address = (parts.hostname or "", parts.port or _PORTS[parts.scheme])
        socket.create_connection(address, timeout=_CONNECT_S).close()
    except TimeoutError:
        return f"no response within {_CONNECT_S:g} s"
    except OSError as error:
        return reason_for(error) or "cannot connect"
    return None
