"""How a release comes onto the device, is checked there, and gives way to the one before it."""
