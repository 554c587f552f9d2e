"""Smaller and faster forms of an exported network, and the gate that decides which of them may serve."""
