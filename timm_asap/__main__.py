"""`python -m timm_asap`: the same program as `timm-asap`."""

from timm_asap.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
