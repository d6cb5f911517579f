"""Models to hand on: a folder with a model card, ONNX graphs, and a repository on a hub."""
