"""How far exported ONNX towers are from the model that they come from."""
