"""Attacks that change colours."""
