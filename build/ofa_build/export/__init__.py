"""From the model to ONNX graphs made for serving."""
