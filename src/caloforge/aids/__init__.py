"""Aids: each is one thing that helps where showers are few; presets name them (``caloforge.models.Aid``)."""
