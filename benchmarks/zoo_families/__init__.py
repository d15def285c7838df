"""The architectures of the public zoo, a module for each place that they come from."""
