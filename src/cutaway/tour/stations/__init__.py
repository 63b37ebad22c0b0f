"""The stations of the tour, in their order. Modules are named as strings: listing loads none.

A station is a function `visit(out, fast)` that works below the folder `out` and returns sections
of the report; each room adds its own here.
"""

STATIONS: dict[str, str] = {
    "grokking": "cutaway.tour.stations.grokking:visit",
    "language": "cutaway.tour.stations.language:visit",
    "dictionaries": "cutaway.tour.stations.dictionaries:visit",
    "orthogonality": "cutaway.tour.stations.orthogonality:visit",
    "probes": "cutaway.tour.stations.probes:visit",
}
