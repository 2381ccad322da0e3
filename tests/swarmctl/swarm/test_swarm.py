"""``swarmctl swarm`` and ``run --join``, with a stand-in for the trainer and the real question workers."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import textwrap
from pathlib import Path

import pytest

from hivemind_exp.errors import SwarmError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.addresses import read_port
from hivemind_exp.swarm.charter import Charter
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.invitation import parse
from swarmctl.errors import Exit
from swarmctl.run import trainer_process
from swarmctl.storage import node_lock as locks
from tests.support.command_line import Cli, write_profile
from tests.support.invitations import SMALL, advice, invitation, made, pasted, request

pytestmark = pytest.mark.usefixtures("no_leftovers")


@pytest.mark.slow
def test_swarms_are_listed_and_joined_under_their_own_commands(here: Cli, home: Path) -> None:
    assert "swarm join INVITATION" in here("swarm", "list").stdout
    assert json.loads(here("swarm", "list", "--json").stdout) == {"schema": 1, "swarms": []}
    text = invitation(here("swarm", "new", "tea").stdout)
    planned = here("swarm", "join", text, "--node", "two", "--dry-run")
    assert planned.stdout.startswith("node      two (new)"), planned.stderr
    joined = here("swarm", "join", text, "--node", "two", "--set", "train.beta=0.5", "--json")
    assert json.loads(joined.stdout)["rounds"] == 1, joined.stderr
    assert "run --node two --rounds 2" in joined.stderr
    assert "--fresh" not in joined.stderr + here("run", "--node", "two").stderr  # which a swarm does not allow
    assert request(home, "two")["config"]["swarm"]["join"] == text
    assert request(home, "two")["config"]["train"]["beta"] == 0.5
    again = here("swarm", "join", "swarm1:nonsense", "--node", "three")
    assert again.returncode == Exit.USAGE
    rows = json.loads(here("swarm", "list", "--json").stdout)["swarms"]
    assert [(row["node"], row["name"], row["open"], row["tasks"], row["running"]) for row in rows] == [
        ("tea", "tea", False, ["spell_backward"], False),
        ("two", "tea", False, ["spell_backward"], False),
    ]
    (home / "nodes/two/charter").write_bytes(b"damaged")
    damaged = here("swarm", "list")
    assert "warning: cannot read the charter of node two" in damaged.stderr
    heading, first, second = damaged.stdout.splitlines()
    assert heading.split()[:3] == ["swarm", "id", "node"]
    assert first.split()[:5] == ["tea", parse(text).charter[:12], "tea", "not", "running"]
    assert second.split()[:5] == ["-", parse(text).charter[:12], "two", "not", "running"]


@pytest.mark.slow
def test_a_new_swarm_has_a_node_a_signed_charter_and_one_line_to_paste(here: Cli, home: Path) -> None:
    done = here("swarm", "new", "tea", "--set", "game.group_size=4", "--open")
    text = invitation(done.stdout)
    files = NodeFiles(home / "nodes/tea")
    identity = Identity.load(files.key)
    charter = Charter.open(files.charter.read_bytes(), parse(text).charter)
    assert (charter.founder, charter.group_size, charter.is_open, charter.game) == (
        identity.peer_id,
        4,
        True,
        "sampling",
    )
    assert [task.label for task in charter.tasks] == ["spell_backward"]
    assert dict(charter.tasks[0].params) == {"min_word_len": 3, "max_word_len": 5}
    assert charter.tasks[0].version.startswith("reasoning-gym ")
    port = read_port(files.swarm)
    assert all(f"/tcp/{port}/p2p/{identity.peer_id}" in address for address in parse(text).addresses)
    assert stat.S_IMODE(files.key.stat().st_mode) == stat.S_IMODE(files.charter.stat().st_mode) == 0o600
    assert "run --node tea" in done.stderr
    assert "It stops after round 1 (game.rounds). To let it run until you stop it, start it with:" in done.stderr
    assert "run --node tea --rounds 0\n" in done.stderr
    assert "It stops" not in here("swarm", "new", "endless", "--set", "game.rounds=0").stderr
    assert made(home, "tea")["swarm"] == charter.id


@pytest.mark.slow
def test_a_swarm_allows_a_curriculum_if_its_first_node_has_one(here: Cli, home: Path) -> None:
    on, off = "game.curriculum=true", "game.curriculum=false"
    done = here("swarm", "new", "tea", "--set", on)
    assert "curriculum allowed" in done.stderr
    charter = Charter.open((home / "nodes/tea/charter").read_bytes(), parse(invitation(done.stdout)).charter)
    assert (charter.format, charter.curriculum) == (2, True)
    assert charter.tasks[0].levels == ({"max_word_len": 3}, {"max_word_len": 5})
    shown = json.loads(here("swarm", "show", "--json").stdout)
    assert shown["curriculum"] is True
    assert shown["tasks"][0]["levels"] == list(charter.tasks[0].levels)
    assert "2 levels of difficulty" in here("swarm", "show").stdout
    for setting in (on, off):
        joined = here("swarm", "join", invitation(done.stdout), "--node", "two", "--set", setting, "--dry-run")
        assert joined.returncode == Exit.DONE, joined.stderr


@pytest.mark.slow
def test_a_curriculum_that_the_charter_does_not_allow_is_refused_before_anything_is_created(
    here: Cli, home: Path, tea: str
) -> None:
    plain = Charter.open((home / "nodes/tea/charter").read_bytes(), parse(tea).charter)
    assert (plain.format, plain.curriculum) == (1, False)
    assert json.loads(here("swarm", "show", "--json").stdout)["curriculum"] is False
    refused = here("swarm", "join", tea, "--node", "two", "--set", "game.curriculum=true", "--yes")
    assert refused.returncode == Exit.CONFIGURATION
    assert "the charter of swarm tea fixes the tasks' parameters and shares" in refused.stderr
    assert advice(refused.stderr)[-2:] == ["--set", "game.curriculum=false"]
    assert not (home / "nodes/two").exists()
    refused = here("swarm", "new", "talk", "--game", "study-group", "--set", "game.curriculum=true")
    assert refused.returncode == Exit.CONFIGURATION
    assert "a swarm that plays study-group cannot have a curriculum" in refused.stderr
    assert not (home / "nodes/talk").exists()


@pytest.mark.slow
def test_the_creator_starts_with_only_its_node_name(here: Cli, home: Path, tea: str) -> None:
    done = here("run", "--node", "tea")
    assert done.returncode == Exit.DONE, done.stderr
    config = request(home, "tea")["config"]
    assert config["swarm"]["join"].startswith(f"swarm1:{parse(tea).charter}")
    assert config["node"]["fresh"] is False
    assert config["node"]["seed"] == made(home, "tea")["seed"]
    assert "Swarm tea (" in done.stderr


@pytest.mark.slow
def test_traffic_between_peers_is_reported(here: Cli, home: Path, tea: str) -> None:
    done = here("run", "--node", "tea", "--rounds", "3", "--json")
    assert done.returncode == Exit.DONE, done.stderr
    result = json.loads(done.stdout)
    assert (result["peers"], result["groups_shared"], result["rollouts"]["peer"]) == (2, 6, 12)
    assert "No peers in touch.\n2 peers in touch.\nerror: another node has this identity\n" in done.stderr
    assert "Round 1 of 3: 2 of 4 correct from peers, 3 of 8 correct, reward 0.30" in done.stderr
    assert "In the swarm: shared 6 groups (4 KiB), learned from 3 peer groups." in done.stderr
    row = json.loads(here("status", "--node", "tea", "--json").stdout)["nodes"][0]
    assert (row["swarm"], row["peers"], row["groups_from_peers"]) == (parse(tea).charter, None, 0)
    assert row["error"] is None
    assert f" 0 groups tea ({parse(tea).charter[:12]})" in " ".join(here("status").stdout.split())
    (home / "nodes/tea/charter").write_bytes(b"damaged")
    assert f" 0 groups {parse(tea).charter[:12]}" in " ".join(here("status").stdout.split())


@pytest.mark.slow
def test_a_name_that_is_taken(here: Cli, home: Path, tea: str) -> None:
    again = here("swarm", "new", "tea")
    assert again.returncode == Exit.CONFIGURATION
    assert advice(again.stderr) == ["swarm", "invite", "--node", "tea"]
    assert invitation(here(*advice(again.stderr)).stdout) == tea
    write_profile(home, "alone", SMALL)
    assert here("run", "-p", "alone", "--node", "alone").returncode == Exit.DONE
    third = here("swarm", "new", "alone")
    assert "has already trained alone" in third.stderr
    assert here(*advice(third.stderr)).returncode == Exit.DONE
    assert made(home, "alone-2")["swarm"] is not None


@pytest.mark.slow
def test_the_command_to_join_names_a_builtin_profile(here: Cli, home: Path) -> None:
    new = pasted(here("swarm", "new", "tiny", "-p", "demo").stdout)
    assert new[:-1] == ["run", "--profile", "demo", "--join"]
    invited = json.loads(here("swarm", "invite", "--json").stdout)
    assert shlex.split(invited["command"])[-5:] == new
    assert invited["invitation"] == new[-1]
    done = here(*new, "--node", "two", "--rounds", "1")
    assert done.returncode == Exit.DONE, done.stderr
    assert request(home, "two")["config"]["model"]["name"] == "tiny"
    assert here("run", "--node", "tiny", "-p", "default").returncode == Exit.DONE
    assert pasted(here("swarm", "invite", "--node", "tiny").stdout) == new  # the user's default extends it
    write_profile(home, "cpu", SMALL)  # the user's own, which hides the built-in one
    assert pasted(here("swarm", "new", "own", "-p", "cpu").stdout)[:-1] == new[:-1]
    (home / "profiles/cpu.toml").write_text("[game]\nrounds = 1\n[[tasks]]\nname = 'chain_sum'\n")
    assert pasted(here("swarm", "invite", "--node", "own").stdout)[:2] == ["run", "--join"]
    (home / "profiles/cpu.toml").unlink()
    assert pasted(here("swarm", "invite", "--node", "own").stdout)[:4] == ["run", "--profile", "cpu", "--join"]


@pytest.mark.slow
def test_a_swarm_on_one_machine_is_joined_with_the_file_of_its_profile(here: Cli, home: Path, tmp_path: Path) -> None:
    profile = tmp_path / "trio.toml"
    profile.write_text(SMALL + "[swarm]\nloopback = true\n")
    created = here("swarm", "new", "trio", "--profile", str(profile))
    join = pasted(created.stdout)
    assert join[:-1] == ["run", "--profile", str(profile), "--node", "trio-2", "--join"]
    assert "swarm.loopback=false" in created.stderr
    assert "Once it is running, other nodes on this machine can join with:" in created.stderr
    invited = here("swarm", "invite")
    assert pasted(invited.stdout) == join
    assert "Other nodes on this machine can join swarm trio with:" in invited.stderr
    done = here(*join)
    assert done.returncode == Exit.DONE, done.stderr
    assert request(home, "trio-2")["config"]["model"]["name"] == "tiny"


@pytest.mark.slow
def test_a_node_that_no_one_named_gets_the_swarms_name(here: Cli, home: Path, tea: str) -> None:
    assert here("run", "--node", "tea").returncode == Exit.DONE
    (home / "nodes/tea").rename(home / "nodes/founder")  # as on another machine, but with the charter at hand
    assert here("run", "--join", tea).returncode == Exit.DONE
    assert made(home, "tea")["swarm"] == parse(tea).charter
    assert not (home / "nodes/default").exists()
    assert here("run", "--join", tea, "--node", "default").returncode == Exit.DONE
    log = home / "nodes/tea/trainer.log"
    before = log.stat().st_mtime_ns
    assert "default" in here("run", "--join", tea, "--dry-run").stdout  # already in the swarm
    assert log.stat().st_mtime_ns == before


@pytest.mark.slow
def test_an_invitation_pasted_while_its_node_runs_here_starts_another_node(here: Cli, home: Path, tea: str) -> None:
    lock = os.open(home / "nodes/tea/lock", os.O_RDWR)
    assert locks.acquire(lock)
    try:
        for _ in range(2):  # the second time, tea-2 is in the swarm and free
            done = here("run", "--join", tea)
            assert done.returncode == Exit.DONE, done.stderr
            assert "Node tea of this swarm is already running here, so this run uses another node, tea-2" in done.stderr
        other = os.open(home / "nodes/tea-2/lock", os.O_RDWR)
        assert locks.acquire(other)
        assert here("run", "--join", tea).returncode == Exit.DONE
        os.close(other)
        assert here("run", "--join", tea, "--node", "tea").returncode == Exit.CONFIGURATION
    finally:
        os.close(lock)
    assert {path.name for path in (home / "nodes").iterdir()} == {"tea", "tea-2", "tea-3"}
    assert made(home, "tea-3")["swarm"] == parse(tea).charter


def test_a_retry_does_not_name_a_node_before_its_swarm_is_known(here: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(*_: object) -> bytes:
        raise SwarmError("no peer answered")

    monkeypatch.setattr(trainer_process, "fetch_charter", no_answer)
    line = f"swarm1:{'0f' * 32}@/ip4/127.0.0.1/tcp/1/p2p/{Identity.generate().peer_id}"
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    failed = here("run", "--join", line)
    assert failed.returncode == Exit.CONFIGURATION
    assert advice(failed.stderr) == ["run", "--join", line]
    monkeypatch.setattr(shutil, "which", lambda *_: "/bin/nc")
    failed = here("run", "--join", line)
    assert failed.stderr.splitlines()[-1] == "  try: nc -vz 127.0.0.1 1", "not only the same command again"


def test_a_swarm_that_cannot_be_created_leaves_no_files(here: Cli, home: Path) -> None:
    done = here("swarm", "new", "tea", "--task", "spel_backward")
    assert done.returncode == Exit.CONFIGURATION
    assert "spell_backward" in done.stderr
    assert not (home / "nodes").exists()


@pytest.mark.slow
def test_joining_with_an_invitation_that_was_wrapped(here: Cli, home: Path, tea: str) -> None:
    wrapped = "\n  ".join(textwrap.wrap(tea, 40, break_on_hyphens=False))
    first = here("run", "--join", f" {wrapped} ", "--node", "two")
    assert first.returncode == Exit.DONE, first.stderr
    files, config = NodeFiles(home / "nodes/two"), request(home, "two")["config"]
    assert config["swarm"]["join"] == tea
    assert config["tasks"][0]["params"] == {"min_word_len": 3, "max_word_len": 5}
    assert (config["game"]["group_size"], config["node"]["fresh"]) == (8, False)
    assert files.charter.read_bytes() == (home / "nodes/tea/charter").read_bytes()
    assert Identity.load(files.key).peer_id != Identity.load(NodeFiles(home / "nodes/tea").key).peer_id
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600
    peer = Identity.load(files.key).peer_id
    second = here("run", "--node", "two", "--rounds", "2")
    assert second.returncode == Exit.DONE, second.stderr
    assert "Changed: game.rounds 1 → 2" in second.stderr
    assert second.stderr.count("Changed:") == 1
    assert request(home, "two")["config"]["node"]["seed"] == config["node"]["seed"]
    assert Identity.load(files.key).peer_id == peer


@pytest.mark.slow
def test_a_node_that_cannot_load_its_model_when_it_joins_gets_commands_to_retry_or_leave(
    here: Cli, home: Path, tea: str
) -> None:
    words = ("run", "-p", "cpu", "--node", "large", "--join", tea, "--model", "Qwen/Qwen3-0.6B", "--rounds", "2")
    failed = here(*words, STAND_IN="no_model")
    assert failed.returncode == Exit.FAILED
    *_, stays, error, _ = failed.stderr.splitlines()
    assert stays.startswith("Node large stays in swarm tea. To leave: ")
    assert stays.endswith("swarmctl swarm leave --node large")
    assert error == "error: Qwen/Qwen2.5-0.5B-Instruct is not on this machine"
    demo = advice(failed.stderr)
    assert demo == ["run", "--profile", "demo", "--node", "large", "--rounds", "2", "--join", tea]
    again = here(*demo, STAND_IN="no_model")
    assert "stays in swarm" not in again.stderr  # that run did not create the node
    assert advice(again.stderr) == demo
    fixed = here(*demo)
    assert fixed.returncode == Exit.DONE, fixed.stderr
    config = request(home, "large")["config"]
    assert (config["model"]["name"], config["game"]["rounds"], config["swarm"]["join"]) == ("tiny", 2, tea)
    # Now it has trained this model, so another model needs another node.
    again = here("run", "--node", "large", "--rounds", "4", STAND_IN="no_model")
    assert advice(again.stderr) == ["run", "--profile", "demo"]


@pytest.mark.slow
def test_a_profile_that_does_not_support_the_swarms_tasks_is_not_suggested(here: Cli) -> None:
    line = invitation(here("swarm", "new", "sums", "-p", "cpu", "--task", "chain_sum").stdout)
    failed = here("run", "-p", "cpu", "--join", line, "--node", "two", STAND_IN="no_model")
    # This model needs no hub, and it supports every task.
    smol = ["run", "--profile", "cpu", "--node", "two", "--join", line, "--model", "smollm2"]
    assert advice(failed.stderr) == smol
    assert advice(here("status", "two").stdout) == smol


@pytest.mark.slow
def test_nodes_of_a_swarm_have_different_seeds(here: Cli, home: Path, tea: str) -> None:
    for node in ("two", "three"):
        assert here("run", "--join", tea, "--node", node).returncode == Exit.DONE
    assert len({made(home, node)["seed"] for node in ("tea", "two", "three")}) == 3
    chosen = here("run", "--join", tea, "--node", "four", "--seed", "5")
    assert chosen.returncode == Exit.DONE
    assert request(home, "four")["config"]["node"]["seed"] == 5


def test_commands_without_a_swarm_suggest_creating_one(here: Cli) -> None:
    for command in ("show", "invite", "peers", "leaderboard", "leave"):
        done = here("swarm", command)
        assert done.returncode == Exit.CONFIGURATION
        assert "no node on this machine is in a swarm" in done.stderr
        assert advice(done.stderr) == ["swarm", "new", "my-swarm"]
        assert json.loads(here("swarm", command, "--json").stdout)["error"]["code"] == "configuration"


@pytest.mark.slow
def test_the_node_must_be_named_if_several_are_in_swarms(here: Cli, tea: str) -> None:
    assert here("swarm", "new", "coffee").returncode == Exit.DONE
    for command in ("show", "invite", "peers", "leaderboard", "leave"):
        done = here("swarm", command)
        assert "2 nodes on this machine are in a swarm (coffee, tea); choose one with --node" in done.stderr
        assert advice(done.stderr) == ["swarm", command, "--node", "coffee"]
        yes = ["--yes"] if command == "leave" else []
        assert here(*advice(done.stderr), *yes).returncode == Exit.DONE


@pytest.mark.slow
def test_the_running_node_is_suggested_if_several_are_in_swarms(here: Cli, home: Path, tea: str) -> None:
    assert here("swarm", "new", "coffee").returncode == Exit.DONE
    lock = os.open(home / "nodes/tea/lock", os.O_RDWR)
    assert locks.acquire(lock)
    try:
        assert advice(here("swarm", "peers").stderr) == ["swarm", "peers", "--node", "tea"]
    finally:
        os.close(lock)
    assert "  task     spell_backward, " in here("swarm", "show", "tea").stdout
    left = here("swarm", "leave", "coffee", "--yes").stdout
    assert "Node coffee has left swarm coffee." in left
    assert "Kept: its key. It has not trained yet." in left


@pytest.mark.slow
def test_show_and_invite_as_json(here: Cli, home: Path, tea: str) -> None:
    shown = json.loads(here("swarm", "show", "--json").stdout)
    assert (shown["schema"], shown["node"], shown["swarm"]) == (1, "tea", parse(tea).charter)
    assert shown["founder"] == shown["peer"]
    assert shown["addresses"] == list(parse(tea).addresses)
    assert shown["running"] is False
    assert shown["tasks"][0]["weight"] == 1.0
    invited = json.loads(here("swarm", "invite", "--json").stdout)
    assert invited["invitation"] == tea
    (home / "nodes/tea/identity.key").unlink()
    assert json.loads(here("swarm", "show", "--json").stdout)["peer"] is None


@pytest.mark.slow
def test_address_settings(here: Cli) -> None:
    done = here("swarm", "new", "near", "--set", "swarm.loopback=true", "--set", "swarm.port=4001")
    (address,) = parse(invitation(done.stdout)).addresses
    assert address.startswith("/ip4/127.0.0.1/tcp/4001/p2p/")
    assert "from this machine only" in done.stderr
    done = here("swarm", "new", "far", "--set", "swarm.announce=['/dns4/node.example/tcp/4001']")
    (address,) = parse(invitation(done.stdout)).addresses
    assert address.startswith("/dns4/node.example/tcp/4001/p2p/12D3KooW")
