"""Keeping features that fire together at right angles: a penalty, and the experiment about it."""
