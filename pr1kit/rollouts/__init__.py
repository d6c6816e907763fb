"""Answers sampled in groups: the prompt read once and branched, scored, and logged."""
