"""Names of tasks, and the checks that need no worker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hivemind_exp.config import TaskConfig
from hivemind_exp.errors import TaskError
from hivemind_exp.tasks.registry import FAMILIES, PRESETS, check_tasks, expand, names


def test_a_preset_is_expanded_in_equal_shares() -> None:
    expanded = expand([TaskConfig(name="sapo", weight=9.0), TaskConfig(name="bf")])
    assert [spec.name for spec, _ in expanded] == [*PRESETS["sapo"], "bf"]
    assert [weight for _, weight in expanded] == [1.0] * 10
    assert [spec.label for spec, _ in expanded][-1] == "bf-2"


def test_all_names_are_accepted() -> None:
    check_tasks([TaskConfig(name=name) for name in names() if name not in ("jsonl", "python-file")])
    assert {"sapo", "gsm8k", "jsonl", "spell_backward"} <= set(names())


@pytest.mark.parametrize(
    ("name", "message", "fix"),
    [
        ("spell_backwards", "did you mean spell_backward?", "swarmctl run --task spell_backward"),
        ("GSM8k", "did you mean gsm8k?", "swarmctl run --task gsm8k"),
        ("sums", "did you mean chain_sum or decimal_chain_sum?", "swarmctl run --task chain_sum"),
        ("geometry", "did you mean simple_geometry?", "swarmctl run --task simple_geometry"),
        ("countdown", "its verifier evaluates the answer", "swarmctl run --task "),
        ("composite", "list those instead", "swarmctl run --task "),
    ],
)
def test_an_unknown_name_suggests_the_closest(name: str, message: str, fix: str) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        check_tasks([TaskConfig(name=name)])
    assert caught.value.next is not None
    assert caught.value.next.startswith(fix)
    check_tasks([TaskConfig(name=caught.value.next.rpartition(" ")[2])])


@pytest.mark.parametrize("name", ["zzzzzz", "maths", "code"])
def test_a_name_like_no_task_suggests_the_list(name: str) -> None:
    with pytest.raises(TaskError, match=rf"^unknown task '{name}'$") as caught:
        check_tasks([TaskConfig(name=name)])
    assert caught.value.next == "swarmctl tasks list"


def test_a_preset_accepts_no_parameters() -> None:
    with pytest.raises(TaskError, match="preset and accepts neither params nor path") as caught:
        check_tasks([TaskConfig(name="sapo", params={"size": 3})])
    assert caught.value.next == "swarmctl run --task " + ",".join(PRESETS["sapo"])


@pytest.mark.parametrize("name", ["gsm8k", "jsonl"])
def test_fixed_sets_accept_no_parameters(name: str) -> None:
    with pytest.raises(TaskError, match="no params"):
        check_tasks([TaskConfig(name=name, params={"size": 3})])


@pytest.mark.slow
def test_checking_names_imports_nothing_heavy(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "a", "answer": "b"}\n' * 10)
    program = (
        "import sys, json; from hivemind_exp.config import TaskConfig\n"
        "from hivemind_exp.tasks.registry import check_tasks; import hivemind_exp.tasks.mixture\n"
        f"check_tasks([TaskConfig(name='sapo'), TaskConfig(name='jsonl', path={str(file)!r}, check='math'),\n"
        "    TaskConfig(name='gsm8k'), TaskConfig(name='spell_backward', params={'max_word_len': 5})])\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    loaded = json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    assert not set(loaded) & {"reasoning_gym", "torch", "datasets", "math_verify", "sympy", "numpy", "transformers"}
    assert "hivemind_exp" in loaded


def test_every_family_module_exists() -> None:
    for module in set(FAMILIES.values()):
        assert Path(*module.split(".")).with_suffix(".py").exists()
