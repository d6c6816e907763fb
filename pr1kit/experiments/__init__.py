"""Grids of conditions over seeds, the paper's claims judged by their logs, and the demo."""
