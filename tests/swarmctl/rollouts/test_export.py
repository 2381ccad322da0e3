"""``swarmctl rollouts export``: rows for other programs, and files that are complete or absent."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from tests.support.command_line import ROOT, SWARMCTL
from tests.support.engine_rig import endpoint, engine, order
from tests.support.fake_api.server import api_server
from tests.support.full_disk import mounted_disk
from tests.support.journals import RIGHT, SWARM, bare_node, books, local, mixed_node, prompt
from tests.support.nodes import make_config, run

KEYS = [
    *("schema", "node", "swarm", "round", "stage", "task", "question", "messages", "place", "text", "truncated"),
    *("outcome", "strict", "why", "terms", "turns", "kind", "provider", "model", "version", "usd", "time", "hint"),
]
PROGRAM = [*SWARMCTL, "rollouts", "export"]


def exported(capfdbinary: pytest.CaptureFixture[bytes], *arguments: str) -> list[dict[str, Any]]:
    assert cli.run(["rollouts", "export", *arguments]) == Exit.DONE
    return [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]


def test_one_row_per_completion(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    mixed_node()
    rows = exported(capfdbinary)
    assert all(list(row) == KEYS for row in rows)
    assert {(row["schema"], row["node"], row["swarm"]) for row in rows} == {(1, "maths", SWARM)}
    assert [(row["round"], row["place"], row["provider"], row["model"]) for row in rows] == [
        (1, 0, "local", "tiny"),
        (1, 1, "local", "tiny"),
        (1, 2, "openai", "gpt-4o-mini-2024-07-18"),
        (1, 3, "openai", "gpt-4o-mini-2024-07-18"),
        (2, 0, "openai", "gpt-4o-mini-2024-07-18"),
    ]
    assert rows[0]["messages"][1] == {"role": "user", "content": "Spell cat backwards."}
    assert (rows[0]["outcome"], rows[0]["strict"], rows[0]["why"]) == (1.0, True, "equal to the answer")
    assert (rows[4]["outcome"], rows[4]["usd"]) == (None, 0.001)


def test_filters(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    mixed_node()
    assert [row["place"] for row in exported(capfdbinary, "--correct")] == [0, 2]
    assert [row["place"] for row in exported(capfdbinary, "--correct", "--source", "teacher")] == [2]
    assert [row["round"] for row in exported(capfdbinary, "--last", "2")] == [1, 2]
    assert exported(capfdbinary, "--question", "bb2")[0]["text"] == "god"
    assert exported(capfdbinary, "--round", "4") == []


def test_stdout_is_data_and_ascii(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with books(bare_node()) as written:
        written.group(0, prompt("aa"), {0: local("\x1b[2J\u202eé\u2028\n")}, {0: RIGHT})
    assert cli.run(["rollouts", "export"]) == Exit.DONE
    out, err = capfdbinary.readouterr()
    assert err == b""
    assert out.count(b"\n") == 1
    assert b"\x1b" not in out.decode("ascii").encode()
    assert json.loads(out)["text"] == "\x1b[2J\u202eé\u2028\n"


def test_parquet_holds_the_same(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    mixed_node()
    rows = exported(capfdbinary)
    path = tmp_path / "rollouts.parquet"
    assert cli.run(["rollouts", "export", "-o", str(path)]) == Exit.DONE
    out, err = capfdbinary.readouterr()
    assert (out, err) == (b"", f"Wrote 5 completions of node maths to {path}.\n".encode())
    assert pyarrow.parquet.read_table(path).to_pylist() == rows
    assert cli.run(["rollouts", "export", "--format", "parquet", "--round", "4"]) == Exit.DONE
    (tmp_path / "empty.parquet").write_bytes(capfdbinary.readouterr().out)
    empty = pyarrow.parquet.read_table(tmp_path / "empty.parquet")
    assert (empty.num_rows, empty.column_names) == (0, KEYS)


def test_parquet_for_a_terminal_suggests_a_file_with_the_same_filters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed_node()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.run(["rollouts", "export", "--format", "parquet", "--round", "4", "--correct"]) == Exit.USAGE
    words = "rollouts export --node maths --round 4 --format parquet --output rollouts.parquet --correct"
    assert capsys.readouterr().err.endswith(f"{words}\n")


def test_csv_holds_the_same(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    mixed_node()
    rows = exported(capfdbinary)
    path = tmp_path / "rollouts.CSV"
    assert cli.run(["rollouts", "export", "-o", str(path)]) == Exit.DONE
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == KEYS
    assert len(found) == len(rows)
    for cells, row in zip(found, rows, strict=True):
        for name, value in row.items():
            if value is None:
                assert cells[name] == ""
            elif isinstance(value, str):
                assert cells[name] == value
            else:
                assert json.loads(cells[name]) == value
    capfdbinary.readouterr()
    assert cli.run(["rollouts", "export", "--format", "csv", "--round", "4"]) == Exit.DONE
    assert capfdbinary.readouterr().out.decode().splitlines() == [",".join(KEYS)]


@pytest.mark.slow
def test_many_rows_are_written_in_parts(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with books(bare_node()) as written:
        for round_ in range(3):
            written.group(round_, prompt("aa"), {place: local(f"{place}") for place in range(900)}, {0: RIGHT})
    path = tmp_path / "all.parquet"
    assert cli.run(["rollouts", "export", "-o", str(path)]) == Exit.DONE
    table = pyarrow.parquet.read_table(path)
    assert [(row["round"], row["place"]) for row in table.to_pylist()] == [
        (round_, place) for round_ in range(1, 4) for place in range(900)
    ]
    assert len(exported(capfdbinary)) == 2700


@pytest.mark.slow
def test_a_file_is_overwritten_only_with_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed_node()
    path = tmp_path / "a b.jsonl"
    path.write_text("mine")
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    assert cli.run(["rollouts", "export", "--correct", "--last", "1", "-o", str(link)]) == Exit.CONFIGURATION
    error, following = capsys.readouterr().err.splitlines()
    assert f"{path} already exists" in error
    assert path.read_text() == "mine"
    command = following.removeprefix("  try: ")
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == Exit.DONE, done.stderr
    assert [json.loads(line)["place"] for line in path.read_text().splitlines()] == [2]
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["a b.jsonl", "home", "link.jsonl"]


def test_a_new_file_follows_the_umask(tmp_path: Path) -> None:
    mixed_node()
    before = os.umask(0o027)
    try:
        assert cli.run(["rollouts", "export", "-o", str(tmp_path / "x.jsonl")]) == Exit.DONE
    finally:
        os.umask(before)
    assert (tmp_path / "x.jsonl").stat().st_mode & 0o777 == 0o640


def test_anything_but_a_file_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed_node()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, told in ((pipe, "is not a regular file"), (tmp_path, "is a directory")):
        assert cli.run(["rollouts", "export", "-o", str(path), "--yes"]) == Exit.CONFIGURATION
        assert told in capsys.readouterr().err
    assert pipe.is_fifo()
    assert cli.run(["rollouts", "export", "-o", str(tmp_path / "absent" / "x.jsonl")]) == Exit.FAILED
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_full_disk_leaves_the_old_file(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with books(bare_node()) as written:
        texts = {place: local(os.urandom(20_000).hex()) for place in range(60)}
        written.group(0, prompt("aa"), texts, {0: RIGHT})
    with mounted_disk(tmp_path, "1m") as place:
        path = place / f"x.{suffix}"
        path.write_text("mine")
        assert cli.run(["rollouts", "export", "-o", str(path), "--yes"]) == Exit.FAILED
        err = capsys.readouterr().err
        assert "No space left on device" in err
        assert "df -h " in err
        assert [path.name for path in place.iterdir()] == [f"x.{suffix}"]
        assert path.read_text() == "mine"


@pytest.mark.slow
def test_stdout_that_is_full_or_closed() -> None:
    mixed_node()
    for more in ([], ["--format", "parquet"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*PROGRAM, *more], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == Exit.FAILED
        assert done.stderr.splitlines()[0] == "error: cannot write to standard output: No space left on device"
        assert len(done.stderr.splitlines()) == 2
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [*PROGRAM, *more], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (Exit.FAILED, "")


@pytest.mark.slow
def test_export_of_a_real_run(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    files = bare_node("test")
    run(make_config(game={"rounds": 2}), files.root)
    rows = exported(capfdbinary)
    assert len(rows) == 2 * 3 * 4
    assert {(row["kind"], row["provider"], row["model"]) for row in rows} == {("policy", "local", "tiny")}
    assert {row["why"] for row in rows} == {"chance"}
    assert all(row["messages"] and row["task"] and row["outcome"] in (0.0, 1.0) for row in rows)


def test_export_of_a_real_client(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    files = bare_node()
    with api_server(models=("test-model",)) as server, engine(files.root, endpoint(server.base_url)) as rig:
        rig.run([order(0), order(1)])
        while_it_runs = exported(capfdbinary)
    rows = exported(capfdbinary)
    assert rows == while_it_runs
    assert len(rows) == 8
    assert {(row["kind"], row["provider"], row["model"]) for row in rows} == {("teacher", "box", "test-model")}
    assert sum(row["usd"] for row in rows) > 0
    assert {row["outcome"] for row in rows} == {None}
