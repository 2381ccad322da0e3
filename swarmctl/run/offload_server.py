"""``run --offload URL``: add what the server says about itself to the command line."""

import shlex
import sys
from dataclasses import replace

from swarmctl.keys.server import says_free, server_at
from swarmctl.settings.offload_target import OFFLOAD, typed_address
from swarmctl.settings.options import RunOptions
from swarmctl.settings.resolve import Resolved
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.views import Writer


def with_server(options: RunOptions, resolved: Resolved, prompter: Prompter) -> RunOptions:
    """Return the options with the settings of the server whose address ``--offload`` gives; unchanged without one.

    Raises NodeError if the server has to be asked for its models and does not list them, or if no one can choose.
    """
    found = typed_address(options.flags)
    if found is None:
        return options
    name, url = found
    server, model = server_at(url, name, resolved.config.offload.model or "", prompter, _again)
    settings = {"offload.model": model, f"providers.{name}.base_url": server.base_url}
    own = {f"providers.{name}.needs_key": server.needs_key, f"providers.{name}.free": server.is_free}
    typed = {each.partition("=")[0] for each in options.assignments}
    if name in resolved.config.offload.prices:  # then it is not free
        del own[f"providers.{name}.free"]
    settings |= {key: str(value).lower() for key, value in own.items() if key not in typed}
    if settings.get(f"providers.{name}.free") == "true":
        Writer(sys.stderr)(says_free(name, server))
    others = (flag for flag in options.flags if flag[0] != OFFLOAD or flag[1] not in settings)
    return replace(options, flags=(*others, *((OFFLOAD, key, text) for key, text in settings.items())))


def _again(target: str) -> str:
    return f"swarmctl run {OFFLOAD} {shlex.quote(target)}"
