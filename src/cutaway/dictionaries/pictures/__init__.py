"""Pictures of a dictionary's training."""
