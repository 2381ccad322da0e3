#!/bin/sh
# Start three nodes of one swarm on this host, wait until they finish, and print what each contributed.
# Each node runs 30 rounds, or as many as the variable ROUNDS sets.
set -eu
swarmctl=${SWARMCTL:-.venv/bin/swarmctl}
profile=$(dirname "$0")/profile.toml
rounds=${ROUNDS:-30}

invitation=$($swarmctl swarm new trio --profile "$profile" | grep -o 'swarm1:[^ ]*')
start() { # NODE [OPTION]...: run a node in the background, with its name before each line
  node=$1; shift
  $swarmctl run --node "$node" --rounds "$rounds" --plain "$@" 2>&1 | sed "s/^/[$node] /" &
}
start trio
start second --profile "$profile" --join "$invitation"
start third --profile "$profile" --join "$invitation"
wait
$swarmctl swarm leaderboard --node trio
