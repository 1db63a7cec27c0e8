"""The operator: numbers in, matrices out, and no FFT in a network."""
