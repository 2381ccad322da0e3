"""What ``restart`` prints while it starts a node."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from hivemind_exp.errors import NodeError
from swarmctl.nodes.restart import restart
from tests.support.journals import bare_node

_RUN = """
import json, sys
print("warning: no peer responds yet", file=sys.stderr)
print(json.dumps({"pid": 7} if %r else {"error": {"code": "error", "message": "no", "next": None}}))
sys.exit(%r)
"""


@pytest.mark.parametrize("starts", [True, False])
def test_a_warning_of_the_new_run_has_a_line_of_its_own(
    starts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bare_node("tea")
    script = tmp_path / "run.py"
    script.write_text(_RUN % (starts, int(not starts)))
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, str(script)])
    monkeypatch.setattr("swarmctl.nodes.restart.waiting", _Drawn)
    with nullcontext() if starts else pytest.raises(NodeError, match="no"):
        restart(["tea"], every=False, as_json=False)
    out, err = capfd.readouterr()
    assert err == "[waiting]\nwarning: no peer responds yet\n"
    assert out == ("Started node tea. It runs in the background (pid 7).\n" if starts else "")


class _Drawn:
    """Takes the place of ``waiting``: what is written during the block would land between the brackets."""

    def __init__(self, *_: object) -> None:
        pass

    def __enter__(self) -> None:
        sys.stderr.write("[waiting")
        sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        sys.stderr.write("]\n")
        sys.stderr.flush()
