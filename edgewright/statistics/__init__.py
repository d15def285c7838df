"""How sure a figure is: accuracy with its interval, paired tests, and the noise of latencies."""
