"""Side-by-side measurements against peers and Geant4, in one run on one machine, reported as ratios."""
