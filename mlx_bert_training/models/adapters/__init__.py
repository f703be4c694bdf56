"""Small matrices that are trained beside frozen ones."""
