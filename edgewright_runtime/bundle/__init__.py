"""What a device receives: manifest, release, and what they say of rows, processors and monitoring."""
