"""Checkpoint files: read, checked, found by name, written."""
