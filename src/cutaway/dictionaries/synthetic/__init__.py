"""States made of known features: `truth` says what is drawn, `stream` hands it out as batches.

`config` holds the settings. How much of that truth a dictionary has found is measured in
`cutaway.evaluations.known_truth`.
"""
