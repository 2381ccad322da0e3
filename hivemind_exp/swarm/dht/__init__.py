"""hivemind's DHT, fenced in: what peers may ask of this node, and what it believes of their answers."""
