"""What an encoder learns from texts alone, before it is fine-tuned."""
