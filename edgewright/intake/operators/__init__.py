"""One small handler per ONNX operator, a family a file. Runs in a child process: imports torch."""
