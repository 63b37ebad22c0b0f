"""The study of dictionaries: settings, sources of states, task, control of sparsity, advice."""
