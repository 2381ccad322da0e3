"""Offloading through the Batch API, from opening a batch to paying for it."""
