"""Training by recipe: one loop, which names no method."""
