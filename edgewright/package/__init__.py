"""Bundles: a model with everything a device needs to run and check it."""
