"""A model card lists the sources, their shares and the accuracy, and leaves out private paths."""

from __future__ import annotations

from typing import Any

import pytest
from huggingface_hub import ModelCard

from hivemind_exp.config import Config
from hivemind_exp.hub.card import base_name, model_card
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Evaluation, Manifest, SourceContribution, TrainingRow
from hivemind_exp.rollouts.types import Kind

OWN = SourceContribution(Kind.POLICY, "local", 600, 30_000)
TEACHER = SourceContribution(Kind.TEACHER, "openai", 100, 10_000)


def config(**sections: Any) -> Config:
    return Config.model_validate({"hub": {"repo": "me/mine", "every": 5}, "tasks": ["gsm8k"]} | sections)


def card(*lessons: SourceContribution, evaluations: tuple[Evaluation, ...] = (), **sections: Any) -> str:
    return model_card(config(**sections), round_=40, step=39, lessons=lessons, evaluations=evaluations)


def test_every_source_is_listed_with_provider_and_share() -> None:
    text = card(TEACHER, OWN)
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split(" | ")[1:] for row in rows] == [["this node", "600", "75.0 % |"], ["`openai`", "100", "25.0 % |"]]
    assert "another company's model" in text
    assert "another company's model" not in card(OWN)


def test_a_model_that_learned_nothing_says_so() -> None:
    assert "**Nothing yet**" in card()
    assert "| share |" not in card()


def test_metadata_is_read_by_the_hub_library() -> None:
    data = ModelCard(card(OWN)).data.to_dict()
    assert data["base_model"] == "Qwen/Qwen2.5-0.5B-Instruct"
    assert (data["base_model_relation"], data["library_name"]) == ("finetune", "transformers")
    assert data["datasets"] == ["openai/gsm8k"]
    adapter = ModelCard(card(OWN, model={"lora": {"rank": 4}})).data.to_dict()
    assert (adapter["base_model_relation"], adapter["library_name"]) == ("adapter", "peft")


def test_local_paths_are_not_in_the_card() -> None:
    private = {"model": {"name": "/home/alice/models/secret-run"}, "tasks": ["/home/alice/questions.jsonl"]}
    text = card(OWN, **private)
    assert "alice" not in text
    assert "`secret-run`" in text
    assert "`custom questions`" in text
    assert "base_model" not in ModelCard(text).data.to_dict()
    assert base_name(config(**private)) == "secret-run"


def test_a_peers_name_cannot_break_out_of_its_table_cell() -> None:
    text = card(OWN, SourceContribution(Kind.PEER, "x` | [click](http://evil.example)\n# Title", 1, 1))
    row = next(line for line in text.splitlines() if "click" in line)
    assert row.count("`") == 4
    assert row.count("|") == 5
    assert "\n# Title" not in text


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        ([], "Not measured yet."),
        ([(0, 0.4)], "Accuracy 40.0 % (33–47) before training on 200 held-out"),
        (
            [(20, 0.5), (40, 0.625)],
            "Accuracy 50.0 % (43–57) after round 20, 62.5 % (56–69) after round 40 on 200 held-out",
        ),
        (
            [(0, 0.4), (20, 0.5), (40, 0.625), (60, 0.9)],
            "Accuracy 40.0 % (33–47) before training, 62.5 % (56–69) after round 40 on 200",
        ),
    ],
)
def test_accuracy_is_that_of_the_pushed_model(rounds: list[tuple[int, float]], said: str) -> None:
    assert said in card(OWN, evaluations=tuple(Evaluation(round_, share, 200, {}) for round_, share in rounds))


def test_the_journal_counts_rows_with_nonzero_advantage(tmp_path: Any) -> None:
    def row(kind: Kind, source: str, advantage: float, tokens: int = 3) -> TrainingRow:
        return TrainingRow(kind, source, "t", 0, (1,), (2,) * tokens, "x", 1.0, advantage, None)

    journal = Journal(tmp_path / "j", "s")
    rows = (row(Kind.POLICY, "local", 0.5), row(Kind.POLICY, "local", 0.0), row(Kind.TEACHER, "openai", 1.0, 7))
    for step in range(3):
        journal.commit(Manifest(step, step, 0, 1, rows))
    journal.forget_manifests(3)
    assert journal.contributions(2) == [
        SourceContribution(Kind.POLICY, "local", 2, 6),
        SourceContribution(Kind.TEACHER, "openai", 2, 14),
    ]
    assert journal.contributions(0) == []
