"""Thin Prefect tasks over the library: retries, caching, progress. No framework is imported here before it is used."""
