"""Labelled texts: what classifiers of text are trained and judged on.

A task has texts, a label for each, and the document each is from; no document is on two sides of
its split. Tasks come from folders of classes, tables, CoNLL tokens and the docstrings of Python.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "files": ["conll_tasks", "docstrings_task", "read_tasks"],
        "tables": ["Columns", "table_task"],
        "texts": ["LabelledTexts", "split_by_group"],
    },
)
