"""Prefect flows: the five stages, and the pipeline over them."""
