"""The node's journal: data that must survive kill -9, written before it is used."""
