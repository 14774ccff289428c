"""Where real showers come from: Geant4, run through calzone, with tables that need no download."""

from __future__ import annotations
