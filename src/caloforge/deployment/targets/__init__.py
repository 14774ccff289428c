"""What each target of an export consists of."""
