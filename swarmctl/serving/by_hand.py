"""The command with which people start a server themselves, with all flags that a node needs of it."""

import shlex
from urllib.parse import urlsplit

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.offload.settings import Endpoint, replica_endpoints
from hivemind_exp.proxies import is_loopback
from hivemind_exp.source_kinds import POLICY_SERVER
from swarmctl.keys.local_servers import START, server_command
from swarmctl.serving.gpus import Place
from swarmctl.serving.registry import server_engine

_PROGRAMS = {"sglang": ["python", "-m", "sglang.launch_server"]}
"""By engine, if it is not a program of that name."""
_NEEDLESS = ("DO_NOT_TRACK", "VLLM_NO_USAGE_STATS", "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION")
"""Variables that a server works without."""
_EVERYWHERE, _EVERYWHERE_6 = "0.0.0.0", "::"


def start_command(config: Config, endpoint: Endpoint) -> str | None:
    """Return the command that starts a server of the user's; None if it is not known."""
    if config.offload.kind != POLICY_SERVER or endpoint not in replica_endpoints(config):
        return server_command(endpoint, START)
    engine, url = server_engine(config), urlsplit(endpoint.base_url)
    if url.scheme == "https":  # a proxy's, and nobody knows the server's own address
        return None
    place = Place(None, shared=False, turns=config.offload.serving.turns == "on", why="")
    try:
        words = engine.arguments(config, url.port or 80, place)
    except ConfigurationError:
        return None
    host = url.hostname or ""
    if not is_loopback(host):
        words[words.index("--host") + 1] = _EVERYWHERE_6 if ":" in host else _EVERYWHERE
    elif ":" in host:
        words[words.index("--host") + 1] = host
    variables = engine.environment({}, place, config.model.lora is None)
    needed = [f"{name}={shlex.quote(value)}" for name, value in variables.items() if name not in _NEEDLESS]
    return " ".join([*needed, shlex.join([*_PROGRAMS.get(engine.name, [engine.name]), *words])])
