"""How much of a known truth a dictionary of synthetic states has found."""
