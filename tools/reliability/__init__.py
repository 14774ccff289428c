"""The reliability campaign; see ``__main__``."""
