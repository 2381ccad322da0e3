"""Where the hub's own client keeps things, found without importing it."""

import os
from collections.abc import Mapping
from pathlib import Path

ENDPOINT = "https://huggingface.co"


def endpoint(environment: Mapping[str, str]) -> str:
    """Return the hub's address."""
    return environment.get("HF_ENDPOINT", ENDPOINT).rstrip("/")


def offline(environment: Mapping[str, str]) -> bool:
    """Whether ``HF_HUB_OFFLINE`` keeps the hub's client from asking."""
    return environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def _home(environment: Mapping[str, str]) -> Path:
    cache = environment.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.path.expanduser(environment.get("HF_HOME", os.path.join(cache, "huggingface"))))


def token_file(environment: Mapping[str, str]) -> Path:
    """Return where ``hf auth login`` leaves its token."""
    path = environment.get("HF_TOKEN_PATH")
    return Path(path).expanduser() if path else _home(environment) / "token"


def snapshot(environment: Mapping[str, str], model: str, revision: str | None) -> Path | None:
    """Return the directory of a cached model, or None where not even its config.json is cached."""
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
    """Return the directory that a model's name means, which need not exist; None for an id on the hub.

    The rule of ``hivemind_exp.models.loading``, which cannot be imported without torch.
    """
    path = Path(model).expanduser()
    means_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    return path if means_path or path.is_dir() else None


def weights(directory: Path) -> list[Path]:
    """Return the files of weights of a model's directory. Links of the cache that lead nowhere are left out."""
    kinds = ("*.safetensors", "pytorch_model*.bin")
    return [path for kind in kinds for path in sorted(directory.glob(kind)) if path.is_file()]
