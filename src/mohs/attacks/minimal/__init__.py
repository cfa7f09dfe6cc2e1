"""Attacks that look for the nearest success."""
