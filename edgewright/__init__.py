"""Edgewright: one trained model in; a verified, monitored model on every edge device out."""

__version__ = "0.1.0"
