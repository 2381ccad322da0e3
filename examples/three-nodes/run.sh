#!/bin/sh
# Start three nodes of one swarm on this host, wait until they finish, and print what each contributed.
set -eu
swarmctl=${SWARMCTL:-.venv/bin/swarmctl}
profile=$(dirname "$0")/profile.toml

invitation=$($swarmctl swarm new trio --profile "$profile" | grep -o 'swarm1:[^ ]*')
$swarmctl run --node trio --plain &
for node in second third; do
  $swarmctl run --profile "$profile" --node "$node" --join "$invitation" --plain &
done
wait
$swarmctl swarm leaderboard --node trio
