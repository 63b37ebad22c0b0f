"""Preset settings and sweeps of the grokking room, one YAML file each."""
