"""Attacks that see no gradient."""
