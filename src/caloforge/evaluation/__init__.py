"""How good generated showers are: observables, distances, classifiers, and suites of all of them."""
