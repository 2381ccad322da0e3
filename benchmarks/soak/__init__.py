"""A week of a node's life in compressed time: growth, kills, failures of the machine and of the API, and a swarm."""
