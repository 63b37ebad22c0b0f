"""Settings that come with the room."""
