"""The heart: how text becomes boxes, which box answers which object, and what an answer is worth, a file a task."""
