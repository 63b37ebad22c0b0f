"""One loop for everything that trains, and the instruments that ride on it.

A room writes a `Task` (batches, a loss, an evaluation) and hands it to `fit` with a `LoopConfig`
and a run; the loop does the rest: schedule, clipping, precision, checkpoints, resume, guards.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["LoopConfig"],
        "instruments": ["Instrument", "Moment"],
        "loop": ["fit"],
        "members": ["Outcome"],
        "task": ["WHOLE", "Loss", "Part", "Task"],
        "updaters": ["AdamW"],
        "updating": ["Updater"],
    },
)
