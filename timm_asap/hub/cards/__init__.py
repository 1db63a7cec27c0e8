"""The parts of a model card: what it shows, what it keeps, and under which licence the weights are."""
