"""A file for ``docker compose`` (the Compose specification)."""

import os
from pathlib import Path

from swarmctl.keys.key_text import file_variable
from swarmctl.paths import HOME_VARIABLE, keys_directory, nodes_directory, profiles_directory
from swarmctl.service.definition import STOP_S, Service

_DATA = "/data"
"""SWARMCTL_HOME in the image (Dockerfile)."""
_MODELS = f"{_DATA}/huggingface"
_SECRETS = "/run/secrets"


def text(service: Service) -> str:
    """Return the file."""
    import yaml  # imported here: most commands do not need it

    environment = {name: value for name, value in service.environment.items() if name not in _OF_THE_HOST}
    if _MODELS not in _directories().values():
        environment["HF_HOME"] = f"{_DATA}/nodes/.huggingface"  # only this directory is surely writable
    environment |= {file_variable(name): f"{_SECRETS}/{name}" for name in service.key_files}
    container: dict[str, object] = {
        "image": "swarmctl:cuda" if _has_gpu(service) else "swarmctl",
        # Docker restarts after any exit code but 0.
        "command": ["service", "run", service.node, "--zero-if-final"],
        "restart": "on-failure",
        "init": True,
        "stop_grace_period": f"{STOP_S}s",
        "user": f"{os.getuid()}:{os.getgid()}",
        "volumes": [_bind(source, target) for source, target in _directories().items()],
    }
    if environment:
        container["environment"] = environment
    if service.key_files:
        container["secrets"] = list(service.key_files)
    if _has_gpu(service):
        devices = [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
        container["deploy"] = {"resources": {"reservations": {"devices": devices}}}
    file: dict[str, object] = {"services": {service.name: container}}
    if service.key_files:
        file["secrets"] = {name: {"file": str(path)} for name, path in service.key_files.items()}
    return f"# Build the image first; see the Dockerfile.\n{yaml.safe_dump(file, sort_keys=False, width=1000)}"


_OF_THE_HOST = (HOME_VARIABLE, "HF_HOME", "HF_HUB_CACHE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
"""Variables with paths of this machine, which a container does not have."""


def _has_gpu(service: Service) -> bool:
    return service.device.startswith("cuda")


def _directories() -> dict[str, str]:
    """Return where each directory of this machine is in the container. Docker would create missing ones as root."""
    models = Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface").absolute()
    wanted = {
        nodes_directory().absolute(): f"{_DATA}/nodes",
        profiles_directory().absolute(): f"{_DATA}/profiles",
        keys_directory().absolute(): f"{_DATA}/keys",
        models: _MODELS,
    }
    return {str(source): target for source, target in wanted.items() if source.is_dir()}


def _bind(source: str, target: str) -> dict[str, object]:
    return {"type": "bind", "source": source.replace("$", "$$"), "target": target}  # Compose replaces variables
