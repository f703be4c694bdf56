"""The declaration, the loop and what the loop is made of."""
