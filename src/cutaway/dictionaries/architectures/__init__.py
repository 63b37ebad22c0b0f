"""One file per architecture; `dictionaries.registry` lists them."""
