"""Products with codes of which nearly every entry is zero, and their gradients."""
