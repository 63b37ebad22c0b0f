"""Six small files that every other room stands on; they know nothing of what is above them.

errors, hardware, seeds, files, progress, display: the list is closed.
"""
