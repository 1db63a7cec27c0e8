"""Whom to cite: the paper, timm, and the data where their authors are known here."""

from __future__ import annotations

import re

from timm_asap.hub.cards.accuracy import of_measure
from timm_asap.hub.cards.records import RunRecords

__all__ = ["citations", "of_data"]

_ASAP = """\
@article{grabinski2023fix,
  title   = {Fix your downsampling {ASAP}! Be natively more robust via Aliasing and Spectral Artifact free Pooling},
  author  = {Grabinski, Julia and Keuper, Janis and Keuper, Margret},
  journal = {arXiv preprint arXiv:2307.09804},
  year    = {2023}
}"""

_TIMM = """\
@misc{rw2019timm,
  title     = {PyTorch Image Models},
  author    = {Wightman, Ross},
  publisher = {GitHub},
  year      = {2019},
  doi       = {10.5281/zenodo.4414861},
  url       = {https://github.com/huggingface/pytorch-image-models}
}"""

_CORRUPTIONS = """\
@inproceedings{hendrycks2019benchmarking,
  title     = {Benchmarking Neural Network Robustness to Common Corruptions and Perturbations},
  author    = {Hendrycks, Dan and Dietterich, Thomas},
  booktitle = {International Conference on Learning Representations},
  year      = {2019}
}"""

# By the letters and digits of the last part of a data set's name.
_DATA = {
    "digits": """\
@misc{alpaydin1998optical,
  title     = {Optical Recognition of Handwritten Digits},
  author    = {Alpaydin, E. and Kaynak, C.},
  publisher = {UCI Machine Learning Repository},
  year      = {1998},
  doi       = {10.24432/C50P49}
}""",
    "fashionmnist": """\
@article{xiao2017fashion,
  title   = {{Fashion-MNIST}: a Novel Image Dataset for Benchmarking Machine Learning Algorithms},
  author  = {Xiao, Han and Rasul, Kashif and Vollgraf, Roland},
  journal = {arXiv preprint arXiv:1708.07747},
  year    = {2017}
}""",
    "cifar10": """\
@techreport{krizhevsky2009learning,
  title       = {Learning Multiple Layers of Features from Tiny Images},
  author      = {Krizhevsky, Alex},
  institution = {University of Toronto},
  year        = {2009}
}""",
    "imagenet1k": """\
@article{russakovsky2015imagenet,
  title   = {{ImageNet} Large Scale Visual Recognition Challenge},
  author  = {Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan and Satheesh, Sanjeev and Ma, Sean and
             Huang, Zhiheng and Karpathy, Andrej and Khosla, Aditya and Bernstein, Michael and Berg, Alexander C. and
             Fei-Fei, Li},
  journal = {International Journal of Computer Vision},
  volume  = {115},
  number  = {3},
  pages   = {211--252},
  year    = {2015},
  doi     = {10.1007/s11263-015-0816-y}
}""",
}


def citations(records: RunRecords) -> list[str]:
    """BibTeX entries, one a text."""
    found = [_ASAP] if records.is_twin else []
    found.append(_TIMM)
    if (data := of_data(records)) is not None:
        found.append(data)
    if of_measure(records, "corruption"):
        found.append(_CORRUPTIONS)
    return found


def of_data(records: RunRecords) -> str | None:
    """The entry of the data; None where their authors are not known here."""
    # a folder of the user may have any name: only what this package and the Hub name is known
    hub_id, name = records.data["hub_id"], records.data["name"]
    if hub_id is None and name not in ("digits", "fashion_mnist"):
        return None
    letters = re.sub(r"[^a-z0-9]", "", (hub_id or name).rpartition("/")[2].lower())
    return _DATA.get(letters.removesuffix("wds"))  # timm/imagenet-1k-wds
