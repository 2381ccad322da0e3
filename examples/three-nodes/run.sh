#!/bin/sh
# Start three nodes of one swarm on this host, wait until they finish, and print what each contributed.
# Each node runs 30 rounds, or as many as the variable ROUNDS sets.
set -eu
swarmctl=${SWARMCTL:-.venv/bin/swarmctl}
profile=$(dirname "$0")/profile.toml
rounds=${ROUNDS:-30}

invitation=$($swarmctl swarm new trio --profile "$profile" | grep -o 'swarm1:[^ ]*')
$swarmctl run --node trio --rounds "$rounds" --plain &
for node in second third; do
  $swarmctl run --profile "$profile" --node "$node" --join "$invitation" --rounds "$rounds" --plain &
done
wait
$swarmctl swarm leaderboard --node trio
