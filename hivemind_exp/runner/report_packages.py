"""The optional packages to which a node reports its metrics."""

import importlib.util
import shlex
import sys

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError


def check_reports(config: Config) -> None:
    """Raise ``ConfigurationError`` if the table ``report`` needs a package that is not installed.

    swarmctl does not depend on any of these packages.
    """
    needed: dict[str, str] = {name: f"report.to includes {name}, which" for name in config.report.to}
    if config.report.metrics_port:
        needed["prometheus-client"] = "report.metrics_port needs prometheus-client, which"
    for name, what in needed.items():
        if importlib.util.find_spec(name.replace("-", "_")) is None:
            command = shlex.join([sys.executable, "-m", "pip", "install", name])
            raise ConfigurationError(f"{what} is not installed", next=command)
