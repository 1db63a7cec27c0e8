"""From a run folder to a model that others can find, trust and load."""

from timm_asap.hub.card import write_card

__all__ = ["write_card"]
