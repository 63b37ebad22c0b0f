"""Tables of figures, whoever wrote them: their columns, their names, and the files of others.

Names and columns are kept so that SQL can tell them apart, and histories that other programs wrote
(JSON, CSV, Parquet) become one tidy table of a row per step. Nothing here knows a run's folder.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "history_files": ["HistoryFile", "is_history_file"],
        "recorded_runs": ["RecordedRun", "read_history_file", "read_recorded"],
    },
)
