"""The heart: how text becomes boxes, which box answers which object, and what an answer earns, a file a task."""
