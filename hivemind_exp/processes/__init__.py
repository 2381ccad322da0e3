"""Messages between a node's processes (length-prefixed msgpack on pipes), and their sandbox."""
