"""Universal perturbations: crafts, which make one change from many examples, and the replay of one, an attack of one query."""
