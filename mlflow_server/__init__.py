"""How the tracking server and its model registry run."""
