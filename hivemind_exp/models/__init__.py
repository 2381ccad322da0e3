"""Models: loading, the device, the memory that they need, and the tiny model of the demo."""
