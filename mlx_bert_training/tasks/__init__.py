"""What a model answers: outputs and their meaning, losses, metrics, scaling of targets."""
