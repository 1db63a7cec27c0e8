"""What the tests share: the local Hub, tiny runs, images, networks."""
