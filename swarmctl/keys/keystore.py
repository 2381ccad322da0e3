"""Where a key comes from, in this order:

1. the file that ``SWARMCTL_<NAME>_API_KEY_FILE`` names
2. the provider's environment variable
3. ``$CREDENTIALS_DIRECTORY/<name>`` (systemd)
4. the system's keyring
5. a 0600 file, only where somebody chose that
6. for ``huggingface``: the token file of the hub's own tools

What comes first is looked at first: with a key in the environment no keyring is asked. A place that has the key and
cannot give it is an error, never a reason to look further.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hivemind_exp.errors import KeyProblem
from hivemind_exp.providers import PROVIDERS
from swarmctl.keys.hosts import host_of
from swarmctl.keys.key_text import clean_key, dotted_tail, last_four
from swarmctl.keys.keyring import Keyring
from swarmctl.keys.locations import KeyLocation, LocationKind, key_locations
from swarmctl.keys.saved import SavedKey, read_entry, read_secret
from swarmctl.paths import shown
from swarmctl.terminal.prompter import Prompter


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and why it is this one."""

    name: str
    host: str
    spot: KeyLocation
    shadows: tuple[KeyLocation, ...]
    value: str = field(repr=False)

    @property
    def sentence(self) -> str:
        """What wins over what, for people."""
        over = f" ({', '.join(spot.brief for spot in self.shadows)})" if self.shadows else ""
        return f"key {self.name} {dotted_tail(last_four(self.value))} from {self.spot.where}{over}"


class Keystore:
    """Finds keys and reads them."""

    def __init__(self, prompter: Prompter, environment: Mapping[str, str]) -> None:
        self._keyring = Keyring(prompter)
        self.environment = environment

    def find(self, name: str, *, base_url: str | None = None, pin: LocationKind | None = None) -> Key | None:
        """Return a key, or None where nothing has one.

        ``base_url`` is where it is to be sent. ``pin`` allows one place only.

        Raises KeyProblem where the place that comes first has a key and cannot give it, where the key belongs to
        another host, and where the place pinned has none.
        """
        found = key_locations(name, self.environment)
        if pin is not None:
            found = [spot for spot in found if spot.place == pin]
            if not found:
                raise KeyProblem(f"{name} is pinned to {pin}, which has no such key", next=f"swarmctl keys set {name}")
        if not found:
            return None
        host = self._host(name, base_url)
        value = self._read(found[0])
        return Key(name, host, found[0], tuple(found[1:]), value)

    def _host(self, name: str, base_url: str | None) -> str:
        """Return the host that the key belongs to. Raises KeyProblem where ``base_url`` is at another."""
        entry, row = read_entry(name), PROVIDERS.get(name)
        host = host_of(row.base_url) if row else entry.host if entry else None
        if host is None:
            if base_url is None:
                raise KeyProblem(
                    f"it is not known which host key {name} belongs to",
                    next="swarmctl keys set --help",
                )
            return host_of(base_url)
        wanted = host if base_url is None else host_of(base_url)
        for owner in (host, entry.host if entry else host):
            if owner != wanted:
                raise KeyProblem(
                    f"key {name} belongs to {owner} and is not sent to {wanted}", next="swarmctl keys set --help"
                )
        return host

    def _read(self, spot: KeyLocation) -> str:
        if spot.place == LocationKind.ENVIRONMENT:
            return clean_key(self.environment[spot.source], f"in {spot.where}")
        if spot.place in (LocationKind.KEYRING, LocationKind.FILE):
            return self._saved(_present(spot.source))
        try:
            text = Path(spot.source).expanduser().read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise KeyProblem(
                f"cannot read the key in {shown(Path(spot.source))} ({spot.where}): {reason}",
                next="swarmctl keys list",
            ) from error
        return clean_key(text, f"in {shown(Path(spot.source))}")

    def _saved(self, entry: SavedKey) -> str:
        if entry.home == "file":
            return clean_key(read_secret(entry), "in its file")
        value = self._keyring.get(entry.name, entry.host)
        if value is None:
            raise KeyProblem(
                f"key {entry.name} is gone from the keyring: somebody deleted it there, or this is another keyring",
                next=f"swarmctl keys set {entry.name}",
            )
        return clean_key(value, "in the keyring")


def _present(name: str) -> SavedKey:
    entry = read_entry(name)
    assert entry is not None
    return entry
