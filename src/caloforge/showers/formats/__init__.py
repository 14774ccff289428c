"""File formats: one module each, and the registry that knows them all."""
