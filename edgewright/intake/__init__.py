"""The door: any trained model becomes ONNX, and ONNX a torch graph."""
