"""A model, a measure and a file format that CaloForge finds by name."""
