"""Attacks that climb a loss within a budget."""
