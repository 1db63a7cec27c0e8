"""The study: how networks that differ only in their downsampling compare, trained alike, on Fashion-MNIST."""
