"""The sentences about a class whose embeddings are averaged into its class embedding.

Source: the published extraction of ClipClap's features (Kurzendörfer et al., CVPR Workshops 2024, arXiv
2404.06309). The sentences about actions are those that CLIP's authors used for UCF101.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Literal

Templates = Literal["actions", "things"]
"""``actions``: of a person, as published for UCF and ActivityNet; ``things``: as published for VGGSound."""
PUBLISHED: dict[str, Templates] = {"ucf": "actions", "activitynet": "actions", "vggsound": "things"}
"""Dataset -> the sentences of its published class embeddings. Other datasets get those about things."""
KINDS = ("photo", "video", "example", "demonstration")
VERBS = ("", "using ", "doing ", "during ", "performing ", "practicing ")


def image_prompts(name: str, templates: Templates, *, slip: bool = False) -> list[str]:
    """Sentences for CLIP: 48 about an action, 8 about a thing.

    Args:
        name: the class name.
        templates: which sentences.
        slip: repeat the slip of the published sentences about things, "a photo of the person ...".
    """
    if templates == "actions":
        parts = product(KINDS, ("a", "the"), VERBS)
        return [f"a {kind} of {article} person {verb}{name}." for kind, article, verb in parts]
    plain = [f"a {kind} of {name}." for kind in KINDS]
    definite = [f"a {kind} of the {name}." for kind in KINDS]
    return plain + ([f"a photo of the person {name}.", *definite[1:]] if slip else definite)


def sound_prompts(name: str, templates: Templates) -> list[str]:
    """Sentences for WavCaps: 30 about an action, 9 about a thing."""
    parts = _actions(name) if templates == "actions" else _things(name)
    return [f"{part} can be heard." for part in parts]


def _actions(name: str) -> Iterator[str]:
    yield from (f"a person {verb}{name}" for verb in VERBS if verb != "during ")
    for kind, article, verb in product(KINDS[2:], ("a", "the"), VERBS):
        yield f"a {kind} of {article} person {verb}{name}"
    yield f"the person {name}"


def _things(name: str) -> Iterator[str]:
    for form, article in product(("", "a example of ", "a demonstration of "), ("", "a ", "the ")):
        yield f"{form}{article}{name}"
