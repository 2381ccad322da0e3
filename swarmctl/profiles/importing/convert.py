"""From RL Swarm's settings to ours: each key is carried, or left with the reason why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarmctl.profiles.importing import rl_swarm as rlswarm
from swarmctl.profiles.importing.result import NO_COUNTERPART, SECRET, UNKNOWN, Mapped, Secret
from swarmctl.profiles.importing.rl_swarm import Carry
from swarmctl.profiles.importing.yamlhub import push
from swarmctl.profiles.importing.yamloffload import generation, is_elsewhere
from swarmctl.settings.misplaced_keys import means_secret, service_of
from swarmctl.settings.profile_files import nearest
from swarmctl.terminal.safe_text import looks_like_key


def mapped(settings: Mapping[str, Any]) -> Mapped:
    """Return what becomes of each of ``settings`` (flat, dotted keys). Secrets are looked for in all of them."""
    result = Mapped()
    for key, value in settings.items():
        name = _secret(key, value)
        if name is not None:
            if name == "openai" and is_elsewhere(settings):
                name = ""
            shown = "(a key)" if looks_like_key(key) else key
            result.leave(shown, SECRET, "a secret is not carried into a profile")
            result.secrets.append(Secret(shown, name, value if isinstance(value, str) else ""))
        elif key in rlswarm.CARRIED:
            result.carry(key, rlswarm.CARRIED[key], value)
        elif key not in rlswarm.SPECIAL:
            result.leave(key, *_reason(key))
    _numbers(settings, result)
    _batch(settings, result)
    _adapter(settings, result)
    _reports(settings, result)
    push(settings, result)
    generation(settings, result)
    return result


def _secret(key: str, value: Any) -> str | None:
    """Return what ``swarmctl keys`` calls the secret in a value ("": no name of ours), None where it holds none."""
    name = key.rsplit(".", 1)[-1].lower()
    texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str) and text]
    if (texts and means_secret(name)) or any(map(looks_like_key, [key, *map(str, texts)])):
        return service_of(name) or ""
    return None


def _reason(key: str) -> tuple[str, str]:
    root = key.split(".", maxsplit=1)[0]
    if root in rlswarm.DROPPED:
        return NO_COUNTERPART, rlswarm.DROPPED[root]
    for prefix, why in rlswarm.PREFIXES.items():
        if key.startswith(prefix):
            return NO_COUNTERPART, why
    if means_secret(root):
        return NO_COUNTERPART, "it is empty; keys are kept by `swarmctl keys`"
    guess = nearest(key, rlswarm.KNOWN)
    return UNKNOWN, f"did you mean {guess}?" if guess else "RL Swarm has no such key that is known here"


def _numbers(settings: Mapping[str, Any], result: Mapped) -> None:
    """``bf16`` and ``fp16`` say in other words what ``torch_dtype`` says."""
    for key, name in (("bf16", "bfloat16"), ("fp16", "float16")):
        if key not in settings:
            continue
        if settings[key] is True:
            result.carry(key, Carry("model.dtype", str), name)
        else:
            result.leave(key, NO_COUNTERPART, "off is no setting: model.dtype says what is used")


def _batch(settings: Mapping[str, Any], result: Mapped) -> None:
    """Rows of a step / rows of a group = questions of a round."""
    key = "gradient_accumulation_steps"
    if key not in settings:
        return
    try:
        rows = rlswarm.whole(settings["per_device_train_batch_size"]) * rlswarm.whole(settings[key])
        groups = rows // rlswarm.whole(settings["num_generations"])
    except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        result.leave(key, NO_COUNTERPART, "a round is one step over game.groups x game.group_size rows")
        return
    note = "per_device_train_batch_size x gradient_accumulation_steps / num_generations"
    result.carry(key, Carry("game.groups", rlswarm.whole, note), max(1, groups))


def _adapter(settings: Mapping[str, Any], result: Mapped) -> None:
    """``lora_*`` counts only where ``use_peft`` is on."""
    used = settings.get("use_peft") is True
    given = [key for key in rlswarm.LORA if key in settings]
    for key in given:
        if used:
            result.carry(key, rlswarm.LORA[key], settings[key])
        else:
            result.leave(key, NO_COUNTERPART, "use_peft is not on, so it had no effect there")
    if "use_peft" not in settings:
        return
    if not used:
        result.leave("use_peft", NO_COUNTERPART, "off is the default")
    elif "lora_r" in given:
        result.leave("use_peft", NO_COUNTERPART, "the table [model.lora] says it")
    else:
        result.carry("use_peft", Carry("model.lora.rank", rlswarm.whole, "TRL's default rank"), 16)


def _reports(settings: Mapping[str, Any], result: Mapped) -> None:
    if "report_to" not in settings:
        return
    given = settings["report_to"]
    names = given if isinstance(given, list) else [given]
    kept = [name for name in names if name in ("tensorboard", "wandb")]
    if kept:
        result.carry("report_to", Carry("report.to", list), kept)
    if len(kept) < len(names):
        result.leave("report_to", NO_COUNTERPART, "of its values only tensorboard and wandb exist here")
