"""How a file becomes a checked object: options, reading, what is wrong with it, and changing it in place."""
