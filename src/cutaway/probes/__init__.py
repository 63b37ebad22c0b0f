"""Linear probes: every layer of a model at once, with the controls that make them mean something.

`data` holds what is probed, `states` reads the model once, `fitting` solves every layer and
strength together, `controls` says what the figures would be by chance, `view` shows probes over
text.
"""
