"""Finished models in other forms: ONNX files, and folders for the Hugging Face hub."""
