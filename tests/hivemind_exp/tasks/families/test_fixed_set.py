"""GSM8K, and questions from the user's file."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from hivemind_exp.config import TaskConfig
from hivemind_exp.errors import HubUnreachable, TaskError
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.tasks.registry import check_tasks

LINE = {"question": "1 + 1?", "answer": "2"}


def write(path: Path, lines: list[object]) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def sums(count: int, start: int = 0) -> list[object]:
    return [{"question": f"{n} + 1?", "answer": n + 1} for n in range(start, start + count)]


def gsm8k(count: int, start: int = 0) -> list[object]:
    return [
        {"question": f"{n} + 1?", "answer": f"Think.\n<<{n}+1={n + 1}>>\n#### {n + 1:,}"}
        for n in range(start, start + count)
    ]


def mixture(config: TaskConfig, heldout: int = 200, secret: bytes = b"s", groups: int = 8) -> Mixture:
    return Mixture([config], charter=b"c", secret=secret, heldout=heldout, verifiers=1, groups=groups)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("3", "is not a JSON object"),
        ({"question": "a", "level": 1}, "has no 'answer' field; it has 'question', 'level'"),
        ({"answer": "a"}, "has no 'question' field"),
        ({"text": "a"}, "has no 'question' and 'answer' field; it has 'text'"),
        ({}, "has no 'question' and 'answer' field; it has no fields"),
        ({"question": "a", "answer": "<answer>b</answer>"}, "contains <answer> tags"),
        ({"question": "a", "answer": "</answer>"}, "contains <answer> tags"),
        (r'{"question": "a \ud83d", "answer": "1"}', "contains half a character"),
        ({"question": "a", "answer": float("nan")}, "has an 'answer' that is empty or neither text nor a number"),
        ({"question": "a", "answer": ["1", "2"]}, "has 2 answers in 'answer'; a question can have only one"),
        ({"messages": [{"role": "user", "content": "a"}]}, "has a 'question' that is empty or not text"),
        (
            {"messages": [{"role": role, "content": "a"} for role in ("user", "assistant", "user", "assistant")]},
            "has a 'question' that is empty or not text",
        ),
        ({"question": 3, "answer": "a"}, "has a 'question' that is empty or not text"),
        ({"question": " ", "answer": "a"}, "has a 'question' that is empty or not text"),
        ({"question": "a", "answer": True}, "has an 'answer' that is empty or neither text nor a number"),
        ({"question": "a", "answer": None}, "has an 'answer' that is empty or neither text nor a number"),
        ({"question": "a", "answer": ""}, "has an 'answer' that is empty or neither text nor a number"),
        ({"question": "a", "answer": "b" * 5000}, "5000 characters"),
    ],
)
def test_a_bad_line_is_reported_with_its_number(line: object, what: str, tmp_path: Path) -> None:
    file = write(tmp_path / "my questions.jsonl", [LINE, "", line, LINE])
    with pytest.raises(TaskError, match=rf"my questions\.jsonl:3: the line .*{what}") as caught:
        check_tasks([TaskConfig(name="jsonl", path=str(file))])
    assert caught.value.next == f"sed -n 3p '{file}'"


def test_a_line_that_is_not_utf8_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "latin.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"question": "a", "answer": "b"}\r\n{"question": "\xe9", "answer": "b"}\n')
    with pytest.raises(TaskError, match=r"latin\.jsonl:2: the line is not UTF-8"):
        check_tasks([TaskConfig(name="jsonl", path=str(file))])


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (TaskConfig(name="jsonl"), "needs a path to a file"),
        (TaskConfig(name="jsonl", path="/no/such.jsonl"), "No such file"),
        (TaskConfig(name="gsm8k", path="/no/such"), "no GSM8K files train"),
    ],
)
def test_a_missing_file_is_reported(config: TaskConfig, what: str) -> None:
    with pytest.raises(TaskError, match=what) as caught:
        check_tasks([config])
    assert caught.value.next


def test_too_few_lines_are_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / "few.jsonl", sums(9))
    with pytest.raises(TaskError, match="has 9 questions; at least 10"):
        check_tasks([TaskConfig(name="jsonl", path=str(file))])


@pytest.mark.slow
def test_one_file_is_split_by_the_secret(tmp_path: Path) -> None:
    config = TaskConfig(name="jsonl", path=str(write(tmp_path / "mine.jsonl", sums(50))))
    held = []
    for secret in (b"one", b"two"):
        made = mixture(config, secret=secret)
        held.append({question.text for question in made.questions("heldout", 0, 200)})
        trained = {question.text for number in range(7) for question in made.questions("train", number, 8)}
        assert len(held[-1]) == 10
        assert not held[-1] & trained
        made.close()
    assert held[0] != held[1]


@pytest.mark.slow
def test_an_epoch_sees_every_question_once(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", sums(40))
    write(tmp_path / "heldout.jsonl", [*sums(5, start=900), *sums(1)])
    made = mixture(TaskConfig(name="jsonl", path=str(tmp_path)), heldout=4)
    (facts,) = made.facts()
    assert (facts.size, len(facts.sha256 or "")) == (40, 64)
    held = {question.text for question in made.questions("heldout", 0, 9)}
    assert len(held) == 4
    epoch = [question.text for number in range(5) for question in made.questions("train", number, 8)]
    assert len(set(epoch)) >= 39
    again = [question.text for number in range(5, 10) for question in made.questions("train", number, 8)]
    assert set(again) == set(epoch)
    assert again != epoch
    made.close()


@pytest.mark.slow
def test_answers_compared_as_text_and_as_mathematics(tmp_path: Path) -> None:
    file = write(
        tmp_path / "mine.jsonl", [{"question": str(n), "answer": "one  half" if n else 0.5} for n in range(10)]
    )
    for check, answer, right in [("exact", "0.5", True), ("exact", "1/2", False), ("math", "1/2", True)]:
        made = mixture(TaskConfig.model_validate({"name": "jsonl", "path": str(file), "check": check}), heldout=0)
        asked = {question.text: question for question in made.questions("train", 0, 10)}
        assert made.score([asked["0"]], [f"<answer>{answer}</answer>"])[0].correct is right
        assert made.score([asked["1"]], ["<answer>one half</answer>"])[0].correct
        made.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_gsm8k_from_a_directory(kind: str, tmp_path: Path) -> None:
    (tmp_path / "main").mkdir()
    (tmp_path / "socratic").mkdir()
    for split, count, start in (("train", 30, 2000), ("test", 20, 5000)):
        for subset in ("main", "socratic"):
            rows = gsm8k(count, start if subset == "main" else 9000)
            file = write(tmp_path / subset / f"{split}-00000-of-00001.jsonl", rows)
            if kind == "parquet":
                from pyarrow import json as arrow_json
                from pyarrow import parquet

                parquet.write_table(arrow_json.read_json(file), file.with_suffix(".parquet"))
                file.unlink()
    config = TaskConfig(name="gsm8k", path=str(tmp_path))
    check_tasks([config])
    made = mixture(config, heldout=10)
    held, trained = made.questions("heldout", 0, 10), made.questions("train", 0, 8)
    assert all(question.text.startswith("50") for question in held)
    assert all(question.text.startswith("20") for question in trained)
    right = str(trained[0].entry["answer"])
    answers = [right, right.replace(",", ""), f"${right}.00", f"{right} apples", "1", f"1, {right}"]
    scores = made.score([trained[0]] * 6, [f"<answer>{answer}</answer>" for answer in answers])
    assert [score.correct for score in scores] == [True, True, True, True, False, False]
    (facts,) = made.facts()
    assert facts.size == 30
    made.close()


@pytest.mark.slow
def test_a_file_that_is_not_gsm8k_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [LINE] * 20)
    write(tmp_path / "test.jsonl", [LINE] * 20)
    made = mixture(TaskConfig(name="gsm8k", path=str(tmp_path)))
    with pytest.raises(TaskError, match=r"train\.jsonl:1: not a GSM8K question with an answer after ####"):
        made.facts()
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}]
)
def test_an_unreachable_hub_suggests_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in {**environment, "HF_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    made = mixture(TaskConfig(name="gsm8k"))
    with pytest.raises(HubUnreachable, match=r"cannot load GSM8K \(it is not on this machine") as caught:
        made.questions("train", 0, 1)
    program, *words = shlex.split(caught.value.next or "")
    assert Path(program).is_file()
    assert words == ["download", "openai/gsm8k", "--repo-type", "dataset", "--local-dir", "gsm8k"]
    made.close()
