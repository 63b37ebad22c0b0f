"""Evaluations of dictionaries against tasks: sparse probing, absorption, and what ablations show.

Labelled texts come from `tasks`, their states and features from `encoding`, each text once.
"""
