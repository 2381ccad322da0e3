"""Measurements with a real language model."""
