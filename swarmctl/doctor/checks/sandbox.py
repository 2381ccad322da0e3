"""The sandbox of the processes that make questions and verify answers."""

import json
import os
import sys

from hivemind_exp.processes.messages import search_path
from swarmctl.doctor.check import Context, Finding, ask, failed, ok, warning


def kernel(_context: Context) -> Finding:
    """Let a process confine itself as task workers do, and report what the kernel does not enforce."""
    command = [sys.executable, "-P", "-m", "hivemind_exp.processes.kernel"]
    done = ask(command, limit=8.0, environment=os.environ | search_path())
    if done.returncode:
        return failed(f"a confined process exited with code {done.returncode}", "uname -a")
    still_open = json.loads(done.stdout)
    if still_open:
        return warning(
            f"{'; '.join(still_open)}. Python alone confines verifiers there: run nodes in other people's swarms "
            "as a user without secrets, or in a container",
            "uname -a",
        )
    return ok("Landlock and seccomp confine the processes that verify answers")
