"""A chain, a token and the official facilitator on loopback; ``bed.py`` runs in an environment of its own."""
