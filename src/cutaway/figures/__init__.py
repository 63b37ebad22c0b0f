"""How everything in cutaway looks: one style, generic charts, self-contained HTML pages.

Numbers and labels come in, a matplotlib `Figure` or a page of HTML goes out; what the numbers mean
is the business of the rooms that call. Charts whose file has their name are imported from it:
`from cutaway.figures.curves import Series, curves`, likewise `panels` and `heatmap`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bars": ["horizontal_bars"],
        "html": ["Picture", "Section", "Table", "figure_png", "figure_svg", "page"],
        "look": ["format_of", "new", "save", "series_color"],
        "text": ["label", "visible"],
    },
)
