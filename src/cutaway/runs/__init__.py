"""What a run leaves behind: a folder with its record, tables, checkpoints and lock.

The folders are the truth; they may be copied, moved, deleted and written from many processes at
once, and `RunStore` answers SQL over all of them. Logs written elsewhere are read here too.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "checkpoint": ["Checkpoint", "Checkpoints", "DamagedCheckpoint"],
        "compare": ["compare"],
        "finding": ["find_run"],
        "folder": ["Run"],
        "foreign": ["Log", "open_log"],
        "record": ["RunRecord"],
        "sinks": ["Sink", "TensorBoardSink", "WandbSink"],
        "store": ["RunStore"],
        "training_log": ["TrainingLog", "TrainingLogData", "read_training_log"],
    },
)
