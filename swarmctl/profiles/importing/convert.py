"""From RL Swarm's settings to ours: each key is carried, or left with the reason why."""

from collections.abc import Mapping
from typing import Any

from hivemind_exp.providers import PROVIDERS
from swarmctl.keys.key_text import host_of
from swarmctl.profiles.importing import rl_swarm as rlswarm
from swarmctl.profiles.importing.result import NO_COUNTERPART, SECRET, UNKNOWN, Mapped, Secret
from swarmctl.profiles.importing.rl_swarm import OFFLOAD, Carry, text
from swarmctl.settings.misplaced_keys import means_secret, service_of
from swarmctl.terminal.safe_text import looks_like_key
from swarmctl.terminal.suggest import nearest


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


def _switched(switch: str, keys: Mapping[str, Carry], settings: Mapping[str, Any], result: Mapped) -> bool:
    """Carry ``keys`` where ``switch`` is on, else leave them; return whether it is on."""
    on = settings.get(switch) is True
    for key, carry in keys.items():
        if key in settings and on:
            result.carry(key, carry, settings[key])
        elif key in settings:
            result.leave(key, NO_COUNTERPART, f"{switch} is not on, so it had no effect there")
    return on


def _adapter(settings: Mapping[str, Any], result: Mapped) -> None:
    """``lora_*`` counts only where ``use_peft`` is on."""
    on = _switched("use_peft", rlswarm.LORA, settings, result)
    if "use_peft" not in settings:
        return
    if not on:
        result.leave("use_peft", NO_COUNTERPART, "off is the default")
    elif "lora_r" in settings:
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


_SAVE_STEPS = 500
"""TRL's default of save_steps, at which it pushes by default."""


def push(settings: Mapping[str, Any], result: Mapped) -> None:
    """``hub_*`` counts only where ``push_to_hub`` is on, and its rhythm is that of the checkpoints."""
    on = _switched("push_to_hub", rlswarm.HUB, settings, result)
    if "hub_strategy" in settings:
        result.leave("hub_strategy", NO_COUNTERPART, "hub.every says when")
    if "push_to_hub" not in settings:
        return
    if not on:
        result.leave("push_to_hub", NO_COUNTERPART, "off is the default")
    elif any(each.setting == "hub.repo" for each in result.carried):
        result.carry("push_to_hub", Carry("hub.every", rlswarm.whole, "in rounds; 0: after the last"), _every(settings))
    else:
        result.leave("push_to_hub", NO_COUNTERPART, 'hub.repo = "OWNER/NAME" must say where to')


def _every(settings: Mapping[str, Any]) -> int:
    """Return the rounds between pushes. A node without a last round never comes to an end."""
    try:
        ends = rlswarm.whole(settings.get("max_rounds", 0)) > 0
        steps = max(1, rlswarm.whole(settings.get("save_steps", _SAVE_STEPS)))
    except (TypeError, ValueError, OverflowError):
        ends, steps = False, _SAVE_STEPS
    return 0 if ends and settings.get("hub_strategy") == "end" else steps


_OPENAI = "openai"


def is_elsewhere(settings: Mapping[str, Any]) -> bool:
    """Whether ``openai_*`` means a server of somebody else's, whose key OpenAI must not see."""
    url = settings.get("openai_base_url")
    return isinstance(url, str) and bool(url) and host_of(url) != host_of(PROVIDERS[_OPENAI].base_url)


def generation(settings: Mapping[str, Any], result: Mapped) -> None:
    """``openai_*`` counts only where ``use_openai_api`` is on."""
    given = [key for key in OFFLOAD if key in settings]
    if settings.get("use_openai_api") is not True:
        for key in given:
            off = key == "use_openai_api"
            result.leave(key, NO_COUNTERPART, "off is the default" if off else "use_openai_api is not on")
    elif is_elsewhere(settings):
        for key in given:
            result.leave(
                key, NO_COUNTERPART, "a server of your own is a table [providers.NAME] that offload.provider names"
            )
    else:
        _carry(settings, result)


def _carry(settings: Mapping[str, Any], result: Mapped) -> None:
    result.carry("use_openai_api", Carry("offload.provider", lambda _: _OPENAI), True)
    if "openai_model_name" in settings:
        result.carry("openai_model_name", Carry("offload.model", text), settings["openai_model_name"])
    if "openai_base_url" in settings:
        result.leave("openai_base_url", NO_COUNTERPART, f"{_OPENAI} is always at {PROVIDERS[_OPENAI].base_url}")
