"""``swarmctl swarm``: new, invite, show, peers, leaderboard, leave."""
