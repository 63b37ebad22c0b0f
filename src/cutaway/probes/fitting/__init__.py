"""Probes of all layers and strengths at once, and the controls beside them."""
