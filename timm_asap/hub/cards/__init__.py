"""The parts of a model card: what it shows, what it keeps, and under which license the weights are."""
