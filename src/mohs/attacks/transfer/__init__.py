"""Attacks made on a surrogate, for a model that is never asked."""
