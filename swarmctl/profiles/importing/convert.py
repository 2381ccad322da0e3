"""Convert RL Swarm's settings to ours: each key is imported, or left out with a reason; secrets are collected."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from hivemind_exp.errors import NodeError
from hivemind_exp.providers import PROVIDERS
from swarmctl.keys.key_text import host_of
from swarmctl.profiles.importing import rl_swarm as rlswarm
from swarmctl.profiles.importing.rl_swarm import KeyRule, whole
from swarmctl.settings.problems import means_secret, service_of
from swarmctl.settings.schema import SettingPath, dotted
from swarmctl.terminal.safe_text import looks_like_key
from swarmctl.terminal.suggest import nearest

NO_COUNTERPART = "no counterpart"
UNKNOWN = "not understood"
BAD_VALUE = "value not usable"
SECRET = "secret"


@dataclass(frozen=True, slots=True)
class ConvertedKey:
    """A key that became a setting."""

    key: str
    path: SettingPath
    value: Any
    note: str | None

    @property
    def setting(self) -> str:
        return dotted(self.path)


@dataclass(frozen=True, slots=True)
class LeftKey:
    """A key that did not become a setting."""

    key: str
    kind: str
    why: str


@dataclass(slots=True)
class Secret:
    """An API key, or something that looks like one. Its ``repr`` does not show the value."""

    key: str
    """Its key in the file; "(a key)" if that looks like an API key itself."""
    name: str
    """Its name in ``swarmctl keys``; empty if unknown."""
    value: str = field(repr=False)
    error: NodeError | None = None
    """Why it could not be saved."""

    @property
    def saved(self) -> bool:
        return bool(self.name) and self.error is None

    def report(self) -> dict[str, Any]:
        """Return the ``--json`` report: whether it was saved, and if not, why."""
        why = self.error.message if self.error else None if self.saved else "unknown service"
        return {"key": self.key, "name": self.name or None, "saved": self.saved, "why": why}


@dataclass(slots=True)
class Mapped:
    """The result of converting a file."""

    carried: list[ConvertedKey] = field(default_factory=list)
    left: list[LeftKey] = field(default_factory=list)
    secrets: list[Secret] = field(default_factory=list)

    def convert(self, key: str, rule: KeyRule, value: Any) -> None:
        """Add a setting, unless the value cannot be converted or another key has already set it."""
        path = tuple(rule.setting.split("."))
        try:
            converted = rule.convert(value)
        except (TypeError, ValueError, OverflowError):
            self.leave(key, f"invalid value for {rule.setting}", BAD_VALUE)
            return
        before = next((other for other in self.carried if other.path == path), None)
        if before is not None:
            self.leave(key, f"{before.key} already sets {rule.setting}")
        else:
            self.carried.append(ConvertedKey(key, path, converted, rule.note))

    def leave(self, key: str, why: str, kind: str = NO_COUNTERPART) -> None:
        self.left.append(LeftKey(key, kind, why))

    def withdraw(self, setting: str, why: str) -> bool:
        """Move what sets ``setting`` or a setting below it to ``left``; return whether there was anything."""
        bad = [each for each in self.carried if each.setting == setting or each.setting.startswith(f"{setting}.")]
        for each in bad:
            self.carried.remove(each)
            self.leave(each.key, why, BAD_VALUE)
        return bool(bad)


def mapped(settings: Mapping[str, Any]) -> Mapped:
    """Return what each of ``settings`` (flat, dotted keys) becomes. All of them are searched for secrets."""
    result = Mapped()
    for key, value in settings.items():
        name = _secret(key, value)
        if name is not None:
            if name == _OPENAI and _is_elsewhere(settings):
                name = ""
            shown = "(a key)" if looks_like_key(key) else key
            result.leave(shown, "a secret is never put into a profile", SECRET)
            result.secrets.append(Secret(shown, name, value if isinstance(value, str) else ""))
        elif key in rlswarm.CONVERTED:
            result.convert(key, rlswarm.CONVERTED[key], value)
        elif key not in rlswarm.SPECIAL:
            result.leave(key, *_reason(key))
    for special in (_numbers, _batch, _adapter, _reports, _push, _generation):
        special(settings, result)
    return result


def _secret(key: str, value: Any) -> str | None:
    """Return the name in ``swarmctl keys`` of the secret in a value ("" if unknown); None if it holds no secret."""
    name = key.rsplit(".", 1)[-1].lower()
    texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str) and text]
    if (texts and means_secret(name)) or any(map(looks_like_key, [key, *texts])):
        return service_of(name) or ""
    return None


def _reason(key: str) -> tuple[str, str]:
    """Return why a key is left out, and the kind of reason."""
    root = key.split(".", maxsplit=1)[0]
    for pattern, why in rlswarm.DROPPED.items():
        if fnmatchcase(root, pattern):
            return why, NO_COUNTERPART
    if means_secret(root):
        return "empty; API keys are saved with `swarmctl keys`", NO_COUNTERPART
    guess = nearest(key, [name for name in rlswarm.KNOWN if not name.endswith("*")])
    return f"did you mean {guess}?" if guess else "not a known RL Swarm setting", UNKNOWN


def _numbers(settings: Mapping[str, Any], result: Mapped) -> None:
    """Convert ``bf16`` and ``fp16``, which set the same thing as ``torch_dtype``."""
    for key, name in (("bf16", "bfloat16"), ("fp16", "float16")):
        if settings.get(key) is True:
            result.convert(key, KeyRule("model.dtype", str), name)
        elif key in settings:
            result.leave(key, "off has no effect; model.dtype sets the number format")


def _batch(settings: Mapping[str, Any], result: Mapped) -> None:
    """Convert the batch size: rows per step / rows per group = questions per round."""
    key = "gradient_accumulation_steps"
    if key not in settings:
        return
    try:
        rows = whole(settings["per_device_train_batch_size"]) * whole(settings[key])
        groups = rows // whole(settings["num_generations"])
    except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        result.leave(key, "a round is one step over game.groups x game.group_size rows")
        return
    note = "per_device_train_batch_size x gradient_accumulation_steps / num_generations"
    result.convert(key, KeyRule("game.groups", whole, note), max(1, groups))


def _switched(switch: str, keys: Mapping[str, KeyRule], settings: Mapping[str, Any], result: Mapped) -> bool:
    """Import ``keys`` if ``switch`` is on, else leave them and the switch out; return whether it is on."""
    on = settings.get(switch) is True
    for key, rule in keys.items():
        if key in settings and on:
            result.convert(key, rule, settings[key])
        elif key in settings:
            result.leave(key, f"no effect, because {switch} is off")
    if switch in settings and not on:
        result.leave(switch, "off is the default")
    return on


def _adapter(settings: Mapping[str, Any], result: Mapped) -> None:
    """Convert ``lora_*``, which has an effect only if ``use_peft`` is on."""
    if not _switched("use_peft", rlswarm.LORA, settings, result):
        return
    if "lora_r" in settings:
        result.leave("use_peft", "the table [model.lora] turns it on")
    else:
        result.convert("use_peft", KeyRule("model.lora.rank", whole, "TRL's default rank"), 16)


def _reports(settings: Mapping[str, Any], result: Mapped) -> None:
    given = settings.get("report_to", [])
    names = given if isinstance(given, list) else [given]
    kept = [name for name in names if name in ("tensorboard", "trackio", "wandb")]
    if kept:
        result.convert("report_to", KeyRule("report.to", list), kept)
    if len(kept) < len(names):
        result.leave("report_to", "only tensorboard, trackio and wandb are supported here")


_SAVE_STEPS = 500
"""TRL's default for save_steps, the interval at which it pushes by default."""


def _push(settings: Mapping[str, Any], result: Mapped) -> None:
    """Convert ``hub_*``, which has an effect only if ``push_to_hub`` is on; pushes are as frequent as checkpoints."""
    if not _switched("push_to_hub", rlswarm.HUB, settings, result):
        return
    if any(each.setting == "hub.repo" for each in result.carried):
        result.convert("push_to_hub", KeyRule("hub.every", whole, "in rounds; 0: after the last"), _every(settings))
    else:
        result.leave("push_to_hub", 'set hub.repo = "OWNER/NAME" to push')


def _every(settings: Mapping[str, Any]) -> int:
    """Return the rounds between pushes; 0 pushes only after the last round, so never without a last round."""
    try:
        ends = whole(settings.get("max_rounds", 0)) > 0
        steps = max(1, whole(settings.get("save_steps", _SAVE_STEPS)))
    except (TypeError, ValueError, OverflowError):
        ends, steps = False, _SAVE_STEPS
    return 0 if ends and settings.get("hub_strategy") == "end" else steps


_OPENAI = "openai"


def _is_elsewhere(settings: Mapping[str, Any]) -> bool:
    """Whether ``openai_*`` refers to a server other than OpenAI's. Its key must not be sent to OpenAI."""
    url = settings.get("openai_base_url")
    return isinstance(url, str) and bool(url) and host_of(url) != host_of(PROVIDERS[_OPENAI].base_url)


def _generation(settings: Mapping[str, Any], result: Mapped) -> None:
    """Convert ``openai_*``, which is imported only if ``use_openai_api`` is on and no other server is set."""
    on = settings.get("use_openai_api") is True
    elsewhere = _is_elsewhere(settings)
    for key in [key for key in (*rlswarm.OFFLOAD, "openai_base_url") if key in settings]:
        if not on:
            result.leave(key, "off is the default" if key == "use_openai_api" else "use_openai_api is off")
        elif elsewhere:
            result.leave(key, "for your own server, add a table [providers.NAME] and set offload.provider to NAME")
        elif key in rlswarm.OFFLOAD:
            result.convert(key, rlswarm.OFFLOAD[key], settings[key])
        else:
            result.leave(key, f"always {PROVIDERS[_OPENAI].base_url} for {_OPENAI}")
