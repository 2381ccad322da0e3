"""From RL Swarm's settings to ours: each key is carried, or left with the reason why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swarmctl import rlswarm
from swarmctl.profiles import nearest
from swarmctl.rlswarm import Carry
from swarmctl.schema import Path, dotted
from swarmctl.text import looks_like_key

NO_COUNTERPART = "no counterpart"
NOT_YET = "not yet"
UNKNOWN = "not understood"
BAD_VALUE = "value not usable"
SECRET = "secret"


@dataclass(frozen=True, slots=True)
class Carried:
    """A key that became a setting."""

    key: str
    path: Path
    value: Any
    note: str | None

    @property
    def setting(self) -> str:
        return dotted(self.path)


@dataclass(frozen=True, slots=True)
class Left:
    """A key that did not."""

    key: str
    kind: str
    why: str


@dataclass(slots=True)
class Mapped:
    """What becomes of a file."""

    carried: list[Carried] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """Names for ``swarmctl keys set`` of the secrets that were found."""

    def carry(self, key: str, carry: Carry, value: Any) -> None:
        """Add a setting, unless the value cannot be read or another key set it before."""
        path = tuple(carry.setting.split("."))
        try:
            converted = carry.convert(value)
        except (TypeError, ValueError, OverflowError):
            self.left.append(Left(key, BAD_VALUE, f"it is not a value for {carry.setting}"))
            return
        before = next((other for other in self.carried if other.path == path), None)
        if before is not None:
            self.left.append(Left(key, NO_COUNTERPART, f"{before.key} sets {carry.setting} already"))
        else:
            self.carried.append(Carried(key, path, converted, carry.note))

    def leave(self, key: str, kind: str, why: str) -> None:
        self.left.append(Left(key, kind, why))

    def withdraw(self, setting: str, why: str) -> bool:
        """Leave what would set ``setting`` or something below it; return whether there was anything."""
        bad = [each for each in self.carried if each.setting == setting or each.setting.startswith(f"{setting}.")]
        for each in bad:
            self.carried.remove(each)
            self.leave(each.key, BAD_VALUE, why)
        return bool(bad)


def mapped(settings: Mapping[str, Any]) -> Mapped:
    """Return what becomes of each of ``settings`` (flat, dotted keys). Secrets are looked for in all of them."""
    result = Mapped()
    for key, value in settings.items():
        name = _secret(key, value)
        if name is not None:
            result.leave("(a key)" if looks_like_key(key) else key, SECRET, "a secret is not carried into a profile")
            if name and name not in result.keys:
                result.keys.append(name)
        elif key in rlswarm.CARRIED:
            result.carry(key, rlswarm.CARRIED[key], value)
        elif key not in rlswarm.SPECIAL:
            result.leave(key, *_reason(key))
    _numbers(settings, result)
    _batch(settings, result)
    _adapter(settings, result)
    _reports(settings, result)
    return result


def _secret(key: str, value: Any) -> str | None:
    """Return what ``swarmctl keys`` calls the secret in a value ("": no name of ours), None where it holds none."""
    name = key.rsplit(".", 1)[-1].lower()
    texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str) and text]
    named = name not in rlswarm.NO_SECRETS and name.endswith(rlswarm.SECRET_ENDINGS)
    if (texts and named) or any(map(looks_like_key, [key, *map(str, texts)])):
        return rlswarm.SECRETS.get(name, "")
    return None


def _reason(key: str) -> tuple[str, str]:
    if key in rlswarm.NOT_YET:
        return NOT_YET, rlswarm.NOT_YET[key]
    root = key.split(".", maxsplit=1)[0]
    if root in rlswarm.DROPPED:
        return NO_COUNTERPART, rlswarm.DROPPED[root]
    for prefix, why in rlswarm.PREFIXES.items():
        if key.startswith(prefix):
            return NO_COUNTERPART, why
    if key in rlswarm.SECRETS:
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
