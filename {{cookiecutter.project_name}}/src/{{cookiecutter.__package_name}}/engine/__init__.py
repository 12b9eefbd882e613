"""The machine: the same in every project. Each module works when it alone is copied."""
