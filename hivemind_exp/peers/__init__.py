"""Learning from other nodes' groups: sharing, vetting and drawing them, and peers' reputation."""
