"""Presets of the language room: one YAML file each."""
