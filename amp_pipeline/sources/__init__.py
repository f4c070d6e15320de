"""Where raw events come from, an hour at a time."""
