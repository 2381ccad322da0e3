"""``swarmctl report``: a page that shows what nodes learned and at what cost, from their journals and events."""
