"""Compression techniques on the torch graph."""
