"""How the tiny policy that ships with the kit is made."""
