"""The license of a model's weights: that of the weights it started from, or the trainer's choice."""

from __future__ import annotations

import re
from dataclasses import dataclass

from timm_asap.errors import UserError, unknown_name
from timm_asap.hub.cards.origin import UNKNOWN_LICENCE, Origin

__all__ = ["FROM_SCRATCH", "HUB_LICENCES", "Licence", "choose_licence", "states_licence"]

FROM_SCRATCH = "mit"
"""Of weights that were trained from random ones, where nobody says otherwise: the license of timm_asap."""

# "license mit", as of a data set on the Hub; "MIT license"; "CC BY 4.0". Older runs spell it "licence".
_LICENCE_OF_DATA = re.compile(r"licen[cs]e (?!not stated)|\w licen[cs]e\b|\bCC\b")

_LISTED = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research
intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit
mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown
unlicense wtfpl zlib
"""

HUB_LICENCES = frozenset(_LISTED.split())
"""Identifiers that the Hub takes; source: https://huggingface.co/docs/hub/repositories-licenses."""


@dataclass(frozen=True)
class Licence:
    """A license in the terms of the Hub.

    Args:
        id: Identifier.
        name: Its name, where the identifier is "other".
        link: Where to read it, likewise.
        because: A sentence on why it is this one.
    """

    id: str
    name: str | None
    link: str | None
    because: str


def choose_licence(origin: Origin | None, asked: str | None, before: str | None) -> Licence:
    """The license of the weights.

    Args:
        origin: What they started from; None for random weights.
        asked: What the user chose.
        before: What the card stated so far; it stays unless the user or the origin says otherwise.

    Raises:
        UserError: If the choice is no identifier of the Hub, or contradicts the stated license of the origin.
    """
    if asked is not None and asked not in HUB_LICENCES:
        raise UserError(
            f"--license: {unknown_name('license', asked, HUB_LICENCES)}; all are listed at "
            "https://huggingface.co/docs/hub/repositories-licenses"
        )
    if origin is None:
        return Licence(asked or before or FROM_SCRATCH, None, None, "They were trained from random weights.")
    if origin.licence is not None:
        return _of_origin(origin, asked)
    chosen = asked or (None if before == "other" else before)
    if chosen is not None:
        because = f"They started from {origin}, whose license is not recorded: whoever made this card states it."
        return Licence(chosen, None, None, because)
    slug = re.sub(r"[^a-z0-9.]+", "-", (origin.hub_id or origin.name).lower()).strip("-")
    because = f"They started from {origin}, whose license is not recorded: read it there before using these."
    return Licence("other", f"{UNKNOWN_LICENCE}{slug}", origin.link, because)


def _of_origin(origin: Origin, asked: str | None) -> Licence:
    if asked not in (None, origin.licence):
        raise UserError(
            f"--license {asked}: these weights started from {origin.name}, which is under {origin.licence} "
            f"({origin.stated_by}); leave --license out"
        )
    because = f"They started from {origin}, and keep its license, as {origin.stated_by} states it."
    if origin.is_identifier:
        return Licence(origin.licence, None, None, because)
    return Licence("other", origin.licence, origin.link, because)


def states_licence(source: str) -> bool:
    """Whether a data set's description tells its license."""
    return _LICENCE_OF_DATA.search(source) is not None
