"""Keeping features that fire together at right angles: a penalty any dictionary's loss can take."""
