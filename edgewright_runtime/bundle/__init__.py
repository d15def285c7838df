"""What travels to a device: manifest, release, and what they say of rows, processors and monitoring."""
