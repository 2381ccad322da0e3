"""hivemind's DHT, fenced in."""
