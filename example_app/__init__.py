"""A service that sells weather and a language model: what the documentation shows, in one piece."""
