"""The reward explorer: drag a box, edit the text, and see what an answer earns and why."""
