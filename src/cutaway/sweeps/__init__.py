"""Many runs from one file, for every study: grids with names, executed side by side, summed up.

`read_sweep` turns a file into checked runs, `run_sweep` trains them in worker processes: what
happens to one never stops the rest, and a sweep that was killed goes on where it was.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "ensembles": ["units"],
        "execute": ["execute"],
        "grid": ["Sweep", "SweepRun", "expand", "read_sweep"],
        "run": ["Swept", "run_sweep"],
        "summary": ["summarise"],
    },
)
