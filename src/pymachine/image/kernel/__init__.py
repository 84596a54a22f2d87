"""The guest's kernel and its modules."""
