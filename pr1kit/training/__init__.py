"""GRPO, RLOO and supervised runs in a folder, on TRL's trainers."""
