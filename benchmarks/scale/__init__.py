"""The cost at scale: a model of measured unit costs, checked against published limits."""
