"""Attacks that change few entries or pixels."""
