"""Trials of the whole programs against a hostile world; bounded, counted, and no part of the default suite."""
