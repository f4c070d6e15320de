"""Named bytes: an ``ObjectStore`` and its implementations. Knows nothing of hours or events."""
