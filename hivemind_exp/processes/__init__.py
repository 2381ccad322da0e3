"""How a node's processes talk (length-prefixed msgpack on pipes), and how they are confined."""
