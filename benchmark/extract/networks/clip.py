"""CLIP ViT-B/32: 512-dimensional embeddings of images and texts, run by transformers.

Source: Radford et al., Learning transferable visual models from natural language supervision, ICML 2021,
arXiv 2103.00020. Published weights: github.com/openai/CLIP (``ViT-B-32.pt``), and the same numbers as
huggingface.co/openai/clip-vit-base-patch32, whose names are used here.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmark.errors import UsageError
from benchmark.extract.media.images import bicubic_short_side, normalise
from benchmark.extract.networks.tables import Shapes, linear, norm
from benchmark.system.shipped_files import install

DIM = 512
SIZE, PATCH = 224, 32
"""Sides of an image and of its patches in pixels."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LAYERS = 12
"""Layers of each of the two transformers."""
IMAGE_WIDTH, TEXT_WIDTH = 768, 512
TOKENS, LONGEST = 49_408, 77
"""Size of the vocabulary, and the most tokens of a text, its start and end included."""
START, END = 49_406, 49_407
MERGES = 48_894
"""Merges of the published file that are used; the rest of it belongs to a larger vocabulary."""
UNUSED_ENDS = ("embeddings.position_ids", "input_resolution", "context_length", "vocab_size")
"""Ends of names that published files have besides the weights."""


def shapes() -> Shapes:
    """The tensors of the published weights under transformers' names."""
    image, text = "vision_model", "text_model"
    patches = (SIZE // PATCH) ** 2
    return {
        "logit_scale": (),
        f"{text}.embeddings.token_embedding.weight": (TOKENS, TEXT_WIDTH),
        f"{text}.embeddings.position_embedding.weight": (LONGEST, TEXT_WIDTH),
        **_layers(text, TEXT_WIDTH),
        **norm(f"{text}.final_layer_norm", TEXT_WIDTH),
        "text_projection.weight": (DIM, TEXT_WIDTH),
        f"{image}.embeddings.class_embedding": (IMAGE_WIDTH,),
        f"{image}.embeddings.patch_embedding.weight": (IMAGE_WIDTH, 3, PATCH, PATCH),
        f"{image}.embeddings.position_embedding.weight": (patches + 1, IMAGE_WIDTH),
        **norm(f"{image}.pre_layrnorm", IMAGE_WIDTH),
        **_layers(image, IMAGE_WIDTH),
        **norm(f"{image}.post_layernorm", IMAGE_WIDTH),
        "visual_projection.weight": (DIM, IMAGE_WIDTH),
    }


def _layers(tower: str, width: int) -> Shapes:
    found: dict[str, tuple[int, ...]] = {}
    for i in range(LAYERS):
        layer = f"{tower}.encoder.layers.{i}"
        for projection in "qkv":
            found |= linear(f"{layer}.self_attn.{projection}_proj", width, width)
        found |= linear(f"{layer}.self_attn.out_proj", width, width)
        found |= {**norm(f"{layer}.layer_norm1", width), **norm(f"{layer}.layer_norm2", width)}
        found |= {
            **linear(f"{layer}.mlp.fc1", width, 4 * width),
            **linear(f"{layer}.mlp.fc2", 4 * width, width),
        }
    return found


_RENAMED = (
    (r"visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"visual\.class_embedding", "vision_model.embeddings.class_embedding"),
    (r"visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"visual\.proj", "visual_projection.weight"),
    (r"visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (r"ln_final\.", "text_model.final_layer_norm."),
    (r"text_projection$", "text_projection.weight"),
    (r"transformer\.resblocks\.", "text_model.encoder.layers."),
)
"""Beginnings of OpenAI's names -> those of transformers."""
_IN_LAYERS = (
    (".attn.out_proj.", ".self_attn.out_proj."),
    *((f".ln_{i}.", f".layer_norm{i}.") for i in (1, 2)),
    *((f".mlp.{theirs}.", f".mlp.{ours}.") for theirs, ours in (("c_fc", "fc1"), ("c_proj", "fc2"))),
)


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert OpenAI's names of tensors to those of transformers; others are returned unchanged."""
    if "visual.proj" not in state:
        return dict(state)
    found: dict[str, Tensor] = {}
    for name, x in state.items():
        ours = name
        for theirs, new in _RENAMED:
            ours, count = re.subn(f"^{theirs}", new, ours)
            if count:
                break
        for old, new in _IN_LAYERS:
            ours = ours.replace(old, new)
        # OpenAI multiplies by the projections from the right, and has one matrix for queries, keys, values.
        if name in ("visual.proj", "text_projection"):
            x = x.T
        layer, joint, kind = ours.partition(".attn.in_proj_")
        if joint:
            for projection, third in zip("qkv", x.chunk(3), strict=True):
                found[f"{layer}.self_attn.{projection}_proj.{kind}"] = third
        else:
            found[ours] = x
    return found


def _library() -> Any:
    try:
        import transformers
    except ImportError:
        raise UsageError(f"transformers runs CLIP and is not installed: {install('encoders')}") from None
    return transformers


class ImageEncoder(nn.Module):
    """Prepared images ``[N, 3, 224, 224]`` -> embeddings of norm 1, ``[N, 512]``.

    Args:
        state: tensors under transformers' names, possibly with those of the text encoder.

    Raises:
        UsageError: transformers is not installed.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        library = _library()
        config = library.CLIPVisionConfig(
            hidden_size=IMAGE_WIDTH,
            intermediate_size=4 * IMAGE_WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=IMAGE_WIDTH // 64,
            image_size=SIZE,
            patch_size=PATCH,
            projection_dim=DIM,
            hidden_act="quick_gelu",
        )
        self.clip = library.CLIPVisionModelWithProjection(config)
        self.clip.load_state_dict(_of(state, "vision_model.", "visual_projection."))

    def forward(self, images: Tensor) -> Tensor:
        return functional.normalize(self.clip(pixel_values=images).image_embeds, dim=-1)


class TextEncoder(nn.Module):
    """Token ids ``[N, T]``, padded with the end -> embeddings of norm 1, ``[N, 512]``.

    Args:
        state: tensors under transformers' names, possibly with those of the image encoder.

    Raises:
        UsageError: transformers is not installed.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        library = _library()
        config = library.CLIPTextConfig(
            vocab_size=TOKENS,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=TEXT_WIDTH // 64,
            max_position_embeddings=LONGEST,
            projection_dim=DIM,
            hidden_act="quick_gelu",
            bos_token_id=START,
            eos_token_id=END,
            pad_token_id=END,
        )
        self.clip = library.CLIPTextModelWithProjection(config)
        self.clip.load_state_dict(_of(state, "text_model.", "text_projection."))

    def forward(self, tokens: Tensor) -> Tensor:
        # The embedding is that of the first end. Tokens only see earlier ones, so the padding has no effect.
        return functional.normalize(self.clip(input_ids=tokens).text_embeds, dim=-1)


def _of(state: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {name: x for name, x in state.items() if name.startswith(prefixes)}


class Tokenizer:
    """Turns texts into token ids.

    Args:
        merges: content of the published ``bpe_simple_vocab_16e6.txt.gz``.

    Raises:
        UsageError: transformers is not installed.
    """

    def __init__(self, merges: bytes) -> None:
        lines = gzip.decompress(merges).decode("utf-8").split("\n")[1 : 1 + MERGES]
        pairs = [(first, second) for first, _, second in (line.partition(" ") for line in lines) if second]
        letters = _byte_letters()
        names = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in pairs)]
        names += [f"<{i}>" for i in range(len(names), START)]  # of shorter lists, as random weights have
        vocabulary = {name: i for i, name in enumerate([*names, "<|startoftext|>", "<|endoftext|>"])}
        self._tokenizer = _library().CLIPTokenizer(vocab=vocabulary, merges=pairs)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids ``[N, T]``: start, at most 75 tokens, end; shorter texts are filled up with the end."""
        ids = self._tokenizer(
            list(texts), padding="longest", truncation=True, max_length=LONGEST, return_tensors="pt"
        )["input_ids"]
        assert isinstance(ids, Tensor)
        return ids


def _byte_letters() -> list[str]:
    """A letter for each byte, in the order of the vocabulary: printable bytes stand for themselves."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def prepare(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """An image ``[height, width, 3]`` as CLIP prepares it for the network, ``[3, 224, 224]``."""
    resized = bicubic_short_side(image, SIZE)
    top, left = (round((side - SIZE) / 2) for side in resized.shape[:2])
    return normalise(resized[top : top + SIZE, left : left + SIZE], MEAN, STD)


def random_merges() -> bytes:
    """A list without merges, for dry runs: each letter of a text is a token."""
    return gzip.compress(b"no merges\n", mtime=0)
