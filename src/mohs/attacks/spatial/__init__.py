"""Attacks that move what an image shows."""
