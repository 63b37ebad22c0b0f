"""States made of known features, and how much of that truth a dictionary has found.

`truth.py` says what is drawn, `stream.py` hands it out as batches, `measures.py` compares a
dictionary with it, `instrument.py` does so while one is trained, `judging.py` when one is done.
`config.py` holds the settings.
"""
