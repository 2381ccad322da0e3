"""What became of a configuration of RL Swarm: what was carried, what was left and why, and the secrets in it."""

from dataclasses import dataclass, field
from typing import Any

from swarmctl.profiles.importing.rl_swarm import Carry
from swarmctl.settings.schema import SettingPath, dotted

NO_COUNTERPART = "no counterpart"
NOT_YET = "not yet"
UNKNOWN = "not understood"
BAD_VALUE = "value not usable"
SECRET = "secret"


@dataclass(frozen=True, slots=True)
class Carried:
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
    """A key that did not."""

    key: str
    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class Secret:
    """A key of a service, or what looks like one. Does not show it when printed."""

    key: str
    """Where it stands in the file; "(a key)" where that looks like one itself."""
    name: str
    """What ``swarmctl keys`` calls it; empty where that is not known."""
    value: str = field(repr=False)


@dataclass(slots=True)
class Mapped:
    """What becomes of a file."""

    carried: list[Carried] = field(default_factory=list)
    left: list[LeftKey] = field(default_factory=list)
    secrets: list[Secret] = field(default_factory=list)

    def carry(self, key: str, carry: Carry, value: Any) -> None:
        """Add a setting, unless the value cannot be read or another key set it before."""
        path = tuple(carry.setting.split("."))
        try:
            converted = carry.convert(value)
        except (TypeError, ValueError, OverflowError):
            self.left.append(LeftKey(key, BAD_VALUE, f"it is not a value for {carry.setting}"))
            return
        before = next((other for other in self.carried if other.path == path), None)
        if before is not None:
            self.left.append(LeftKey(key, NO_COUNTERPART, f"{before.key} sets {carry.setting} already"))
        else:
            self.carried.append(Carried(key, path, converted, carry.note))

    def leave(self, key: str, kind: str, why: str) -> None:
        self.left.append(LeftKey(key, kind, why))

    def withdraw(self, setting: str, why: str) -> bool:
        """Leave what would set ``setting`` or something below it; return whether there was anything."""
        bad = [each for each in self.carried if each.setting == setting or each.setting.startswith(f"{setting}.")]
        for each in bad:
            self.carried.remove(each)
            self.leave(each.key, BAD_VALUE, why)
        return bool(bad)
