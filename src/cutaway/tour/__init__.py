"""The whole story on the embedded corpus: a station per room, ending in one `report.html`.

A station runs the room's real commands on small settings and hands back sections of the report;
it is a demonstration to people and a smoke test of everything at once.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"run": ["tour"], "stations": ["STATIONS"]}
)
