"""How models and patches are coded for the way to the device; decoded with numpy alone."""
