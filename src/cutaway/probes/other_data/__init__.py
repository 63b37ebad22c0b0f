"""Probes on data they were not trained on."""
