"""Features of a dictionary over text: what they fire on and promote, and what changing them does."""
