"""Options that several commands take, each declared once. Their defaults stand in the commands."""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JsonAskingNothing = Annotated[bool, typer.Option("--json", help="Print JSON; ask nothing.")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Answer yes to every question.")]
NoInput = Annotated[bool, typer.Option("--no-input", help="Ask nothing; fail where an answer is needed.")]
OneNode = Annotated[str | None, typer.Option("--node", metavar="NODE", help="One node. [default: all]")]
LatestNode = Annotated[str | None, typer.Option("--node", metavar="NODE", help="Node. [default: the latest]")]
Profile = Annotated[
    str | None, typer.Option("-p", "--profile", metavar="PROFILE", help="Profile: a name, or a .toml file.")
]
Tasks = Annotated[
    list[str] | None, typer.Option("--task", metavar="TASK", help="Task, preset or FILE.jsonl; may be repeated.")
]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As for run; may be repeated.")]
Model = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help="An id on the Hugging Face hub, or a directory.")
]
Device = Annotated[str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps or xpu.")]
