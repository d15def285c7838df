"""The exit: a platform's native format by the platform's own converter and quantizer."""
