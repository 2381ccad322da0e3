"""``swarmctl report``: a node's training as a page to look at and to show, from its journal, ledger, events and settings."""
