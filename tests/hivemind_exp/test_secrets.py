"""How the trainer receives and uses API keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hivemind_exp.secrets import Secrets, receive

KEY = "0123456789abcdef0123456789abcdef01234567"


def test_keys_are_read_from_a_pipe_that_is_then_closed() -> None:
    reading, writing = os.pipe()
    os.write(writing, json.dumps({"wandb": KEY}).encode())
    os.close(writing)
    secrets = receive(reading)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)
    assert secrets.get("wandb") == KEY
    assert secrets.get("huggingface") is None
    assert KEY not in repr(secrets)
    assert receive(None) == Secrets()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "address"),
    [({}, "https://api.wandb.ai"), ({"WANDB_BASE_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9")],
)
def test_wandb_uses_its_key_for_one_host_and_writes_no_file(
    tmp_path: Path, environment: dict[str, str], address: str
) -> None:
    pytest.importorskip("wandb")
    code = (
        "from hivemind_exp.secrets import Secrets, use_wandb_key\n"
        f"use_wandb_key(Secrets({{'wandb': '{KEY}'}}))\n"
        "import os, wandb\n"
        "from wandb.sdk.lib import wbauth\n"
        "settings = wandb.setup().settings\n"
        f"assert wbauth.session_credentials(host=settings.base_url).api_key == '{KEY}'\n"
        "print(settings.base_url, sorted(name for name in os.environ if 'KEY' in name))\n"
    )
    kept = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{address} []\n", done.stderr
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in left)
