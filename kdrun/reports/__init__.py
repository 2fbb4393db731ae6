"""Readers of what is on disk. No torch."""
