"""Dictionaries with their models and texts: one pipeline, one session."""
