"""Probes over text: the reading and the page."""
