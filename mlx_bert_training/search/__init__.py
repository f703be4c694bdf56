"""Which declaration is best: search spaces, studies, and what to do with an hour."""
