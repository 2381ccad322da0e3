"""Locations of the hub client's files, found without importing the client."""

import os
from collections.abc import Mapping
from pathlib import Path

from hivemind_exp.model_names import BUILT_IN
from hivemind_exp.models import smollm2
from hivemind_exp.proxies import address_in

ENDPOINT = "https://huggingface.co"


def endpoint(environment: Mapping[str, str]) -> str:
    """Return the hub's address. Raises ConfigurationError if ``HF_ENDPOINT`` is invalid."""
    return address_in(environment, "HF_ENDPOINT") or ENDPOINT


def offline(environment: Mapping[str, str]) -> bool:
    """Whether ``HF_HUB_OFFLINE`` prevents the hub client from sending requests."""
    return environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def _home(environment: Mapping[str, str]) -> Path:
    cache = environment.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.path.expanduser(environment.get("HF_HOME", os.path.join(cache, "huggingface"))))


def token_file(environment: Mapping[str, str]) -> Path:
    """Return the file in which ``hf auth login`` stores its token."""
    path = environment.get("HF_TOKEN_PATH")
    return Path(path).expanduser() if path else _home(environment) / "token"


def snapshot(environment: Mapping[str, str], model: str, revision: str | None) -> Path | None:
    """Return the directory of a cached model, or None if not even its config.json is cached."""
    if model == smollm2.NAME:
        on_hub = snapshot(environment, smollm2.HUB_ID, revision)
        return smollm2.stored(environment) or (on_hub if on_hub and weights(on_hub) else None)
    cache = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE")
    if not cache:
        home = environment.get("HF_HOME", os.path.join(environment.get("XDG_CACHE_HOME", "~/.cache"), "huggingface"))
        cache = os.path.join(home, "hub")
    repository = Path(os.path.expanduser(cache), "models--" + model.replace("/", "--"))
    name = revision or "main"
    reference = repository / "refs" / name
    found = repository / "snapshots" / (reference.read_text().strip() if reference.is_file() else name)
    return found if (found / "config.json").is_file() else None


def local_directory(model: str) -> Path | None:
    """Return the directory that a model's name refers to, which need not exist; None for an id on the hub.

    Follows the rule of ``hivemind_exp.models.loading``, which cannot be imported without torch.
    """
    if model in BUILT_IN:
        return None
    path = Path(model).expanduser()
    means_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    return path if means_path or path.is_dir() else None


def weights(directory: Path) -> list[Path]:
    """Return the weight files in a model's directory, without the cache's broken links."""
    kinds = ("*.safetensors", "pytorch_model*.bin")
    return [path for kind in kinds for path in sorted(directory.glob(kind)) if path.is_file()]
