"""Where a model is measured: each target runs the same bench and gives the same answer."""
