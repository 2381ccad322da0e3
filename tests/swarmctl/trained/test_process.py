"""What the command prints while the process that loads the model works."""

from __future__ import annotations

from io import BytesIO
from types import SimpleNamespace
from typing import Any, cast

import pytest

from swarmctl.trained import process as module
from swarmctl.trained.process import ModelProcess


@pytest.mark.parametrize(("drawn", "printed"), [(True, ""), (False, "Loading PyTorch.\n")])
def test_a_phase_is_a_line_only_where_nothing_can_be_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, drawn: bool, printed: str
) -> None:
    monkeypatch.setattr(module, "can_draw", lambda *_: drawn)
    output = BytesIO(b'{"event": "phase", "name": "loading PyTorch"}\n{"event": "text"}\n{"event": "end"}\n')
    process = ModelProcess(cast("Any", SimpleNamespace(stdout=output)), BytesIO(), _quiet=False)
    assert list(process.events()) == [{"event": "text"}]
    assert capsys.readouterr().err == printed
