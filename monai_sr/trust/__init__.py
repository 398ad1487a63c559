"""How far a result may be trusted: consistency, uncertainty, resolution, ranges of the training data."""
