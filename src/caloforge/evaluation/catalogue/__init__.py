"""The measures of the package. A module says in ``ENTRIES`` which ones it holds, and ``caloforge.plugins`` finds them."""
