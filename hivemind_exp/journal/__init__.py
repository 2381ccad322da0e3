"""The node's journal: what must survive kill -9, written before it is used."""
