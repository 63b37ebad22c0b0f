"""Sparse dictionaries of hidden states: learned, judged, read, and put back into the model."""
