"""Fuzzing of everything that reads foreign files: ``python -m fuzz --seconds 60``."""
