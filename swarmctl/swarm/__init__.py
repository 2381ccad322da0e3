"""``swarmctl swarm``: new, join, list, show, invite, peers, leaderboard, leave."""
