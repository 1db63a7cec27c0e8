"""One module for each command of `timm-asap`; each has `main(argv)` and raises `UserError`."""
