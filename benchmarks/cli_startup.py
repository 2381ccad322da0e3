"""Measure the CPU time of fast commands and of pressing Tab in each shell. Prints medians next to their limits.

CPU time is the user plus system time of the processes (resource usage of children). Other work on the machine hardly
changes it. The time of one Tab is the difference between a shell on a pseudo-terminal that completes a line many times
and a shell in which the same lines are typed without Tab, divided by the number of Tabs.

    python benchmarks/cli_startup.py --runs 15
"""

from __future__ import annotations

import argparse
import os
import pty
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "swarmctl" / "completions"
TABS = 40
PAUSE_S = 0.02
"""Pause after each write to the terminal: a shell does less work if it finds more input waiting."""
LINE = "swarmctl run --profile min"
HELLO = "import typer\n\ndef hello() -> None: ...\n\ntyper.run(hello)"
BARS_MS = {"--version": 25, "--help": 130, "keys list": 150, "profiles list": 150, "status": 150, "one Tab": 10}


def cpu_ms(work: Callable[[], None]) -> float:
    """Return the CPU time, in milliseconds, of the child processes that ``work`` starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def command(program: list[str], arguments: str, environment: dict[str, str]) -> Callable[[], None]:
    """Return a function that runs one command to completion."""

    def work() -> None:
        subprocess.run(
            [*program, *arguments.split()],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            cwd=ROOT,
        )

    return work


def typing(shell: list[str], environment: dict[str, str], key: str) -> Callable[[], None]:
    """Return a function that types the line, ``key`` and Ctrl-U into a shell many times."""

    def work() -> None:
        child, terminal = pty.fork()
        if child == 0:
            os.execve(shell[0], shell, environment)
        os.set_blocking(terminal, False)
        _wait(terminal, 0.5)
        for _ in range(TABS):
            for keys in (LINE, key, "\x15"):
                os.write(terminal, keys.encode())
                _wait(terminal, PAUSE_S)
        os.write(terminal, b"\x15exit\r")
        end = time.monotonic() + 10
        while os.waitpid(child, os.WNOHANG)[0] == 0 and time.monotonic() < end:
            _wait(terminal, PAUSE_S)
        os.close(terminal)

    return work


def _wait(terminal: int, seconds: float) -> None:
    """Read the shell's output, so that the shell never blocks."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.read(terminal, 65536)
        except BlockingIOError:
            time.sleep(0.002)
        except OSError:  # the shell has exited
            return


def shells(home: Path) -> dict[str, list[str]]:
    """Return the command to start each installed shell, with the completion script but without the user's settings."""
    (home / ".config/swarmctl/profiles").mkdir(parents=True)
    (home / ".config/swarmctl/profiles/mine.toml").touch()
    (home / "bashrc").write_text(f". '{SCRIPTS}/swarmctl.bash'\n")
    functions = home / "functions"
    functions.mkdir()
    shutil.copy(SCRIPTS / "swarmctl.zsh", functions / "_swarmctl")
    (home / ".zshrc").write_text(f"fpath=('{functions}' $fpath)\nautoload -Uz compinit && compinit\n")
    completions = home / ".config/fish/completions"
    completions.mkdir(parents=True)
    shutil.copy(SCRIPTS / "swarmctl.fish", completions)
    (home / ".config/fish/config.fish").write_text("set -g fish_autosuggestion_enabled 0\n")
    binaries = home / "bin"
    binaries.mkdir()
    (binaries / "swarmctl").symlink_to("/bin/true")
    started = {
        "bash": ["--noprofile", "--rcfile", str(home / "bashrc"), "-i"],
        "zsh": ["-i"],
        "fish": ["-i"],
    }
    paths = {name: shutil.which(name) for name in started}
    return {name: [path, *started[name]] for name, path in paths.items() if path}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--program", help="launcher to measure instead of python -m swarmctl")
    parser.add_argument("--peer", action="append", default=[], help="another program whose --help to measure, too")
    options = parser.parse_args()
    program = [options.program] if options.program else [sys.executable, "-m", "swarmctl"]
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        environment = {"HOME": directory, "PATH": f"{home}/bin:/usr/bin:/bin", "TERM": "xterm", "LANG": "C.UTF-8"}
        print(f"{'CPU, median (ms)':<20}{'measured':>9}{'limit':>6}")
        for arguments in ("--version", "--help", "keys list", "profiles list", "status"):
            work = command(program, arguments, environment)
            work()
            _print(arguments, statistics.median(cpu_ms(work) for _ in range(options.runs)), BARS_MS[arguments])
        for peer in [[sys.executable, "-c", HELLO], *([peer] for peer in options.peer)]:
            work = command(peer, "--help", environment)
            work()
            name = "a bare Typer --help" if HELLO in peer else f"{Path(peer[0]).name} --help"
            _print(name, statistics.median(cpu_ms(work) for _ in range(options.runs)), None)
        for name, shell in shells(home).items():
            typing(shell, environment, "\t")()
            differences = [
                cpu_ms(typing(shell, environment, "\t")) - cpu_ms(typing(shell, environment, "d"))
                for _ in range(options.runs)
            ]
            _print(f"one Tab, {name}", statistics.median(differences) / TABS, BARS_MS["one Tab"])


def _print(name: str, measured: float, bar: int | None) -> None:
    missed = "  exceeded" if bar is not None and measured > bar else ""
    print(f"{name:<20}{measured:>9.1f}{bar or '':>6}{missed}", flush=True)


if __name__ == "__main__":
    main()
