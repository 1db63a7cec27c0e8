"""Performance, measured side by side: `python -m benchmarks.pooling`, `python -m benchmarks.networks`.

The contract: every contender of a table runs in the same process, interleaved, after a warm-up; times are medians with
their spread over the rounds; the ratio to the yardstick is the median of the ratios of each round, which stands when a
shared machine slows down and speeds up. Losses are printed beside wins. Results go to `benchmarks/results/`, with the
device, the threads and the versions.
"""
