"""What the device records of itself and of its model, and when that is an issue."""
