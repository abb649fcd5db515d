"""A small weather service that sells its answers."""
