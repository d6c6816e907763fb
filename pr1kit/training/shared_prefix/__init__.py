"""How the image is seen once: a group of completions as one packed row instead of G whole ones."""
