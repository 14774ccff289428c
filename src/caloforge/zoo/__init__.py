"""The published models: one file, one paper. A kind of model is called like its file, with dashes for underscores."""
