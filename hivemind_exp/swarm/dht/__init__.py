"""A restricted version of hivemind's DHT: limits what peers may request, and which of their answers are accepted."""
