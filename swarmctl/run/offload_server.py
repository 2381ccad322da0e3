"""``run --offload URL`` or a local provider: add what the server says about itself to the command line."""

import shlex
import sys
from dataclasses import replace

from hivemind_exp.config import ProviderConfig
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.source_kinds import Kind
from swarmctl.keys.server import Server, key_unknown, says_free, server_at
from swarmctl.run.servers_down import check_command, not_started_here, servers_down
from swarmctl.settings.command_line import resolved_options
from swarmctl.settings.offload_target import OFFLOAD, typed_address
from swarmctl.settings.options import RunOptions
from swarmctl.settings.resolve import Resolved
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.views import Writer


def with_server(options: RunOptions, resolved: Resolved, prompter: Prompter) -> RunOptions:
    """Return the options with the settings of the server whose address ``--offload`` gives.

    If ``--offload`` names a provider without a key and without a default model, such as ``llamacpp``, its server is
    asked for the model, unless it serves the node's own. Otherwise, the options are unchanged.

    Raises NodeError if the server has to be asked for its models and does not list them, or if no one can choose.
    """
    found = typed_address(options.flags)
    if found is None:
        return _with_model(options, resolved, prompter)
    name, url = found
    offload = resolved.config.offload
    own_model = resolved.config.model.name if offload.counts_as is Kind.POLICY else ""
    server, model = server_at(url, name, offload.model or own_model, prompter, _again)
    settings = {"offload.model": model, f"providers.{name}.base_url": server.base_url}
    own = {f"providers.{name}.needs_key": server.needs_key, f"providers.{name}.free": server.is_free}
    typed = {each.partition("=")[0] for each in options.assignments}
    if name in resolved.config.offload.prices:  # then it is not free
        del own[f"providers.{name}.free"]
    settings |= {key: str(value).lower() for key, value in own.items() if key not in typed}
    others = (flag for flag in options.flags if flag[0] != OFFLOAD or flag[1] not in settings)
    options = replace(options, flags=(*others, *((OFFLOAD, key, text) for key, text in settings.items())))
    _tell(options, name, server, free=settings.get(f"providers.{name}.free") == "true")
    return options


def _tell(options: RunOptions, name: str, server: Server, *, free: bool) -> None:
    """Print why a server counts as free, or that it is unknown whether it needs a key.

    Prints nothing if it accepts no connection: the plan and the start of the run say so.
    """
    say = Writer(sys.stderr)
    if server.knows_key:
        if free:
            say(says_free(name, server))
        return
    resolved = resolved_options(options)
    down = {each.endpoint.base_url for each in servers_down(not_started_here(resolved.config))}
    if server.base_url not in down:
        say(key_unknown(server, free=free))
        say(f"  {typed(check_command(resolved))}")


def _with_model(options: RunOptions, resolved: Resolved, prompter: Prompter) -> RunOptions:
    """Return the options with the only model of the named provider's server, or the one that the user chooses."""
    named = {setting: text for flag, setting, text in options.flags if flag == OFFLOAD}
    name = named.get("offload.provider", "")
    config = resolved.config
    row = config.providers.get(name) or PROVIDERS.get(name)
    if row is None or row.needs_key or config.offload.model or config.offload.counts_as is Kind.POLICY:
        return options  # a server of the node's own weights is pushed the node's model
    default = row.model if isinstance(row, ProviderConfig) else row.chat and row.chat.model
    if default is not None:
        return options
    url = row.base_url.rstrip("/")
    _, model = server_at(url, name, "", prompter, lambda target: _again(target.replace(url, name, 1)))
    others = (flag for flag in options.flags if flag[:2] != (OFFLOAD, "offload.model"))
    return replace(options, flags=(*others, (OFFLOAD, "offload.model", model)))


def _again(target: str) -> str:
    return f"swarmctl run {OFFLOAD} {shlex.quote(target)}"
