"""CLIP by transformers against its definition under OpenAI's names, and its vocabulary and preprocessing.

The first test of a process waits some seconds for transformers.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from support.needs import transformers
from support.tiny import need
from torch import Tensor
from torch.nn import functional

from benchmark.extract.networks import clip
from benchmark.extract.networks.tables import random_tensors
from benchmark.extract.sets.clip_clap import CLIP_VOCABULARY

HEAD = 64


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers and narrow ones, so that a test takes no seconds."""
    transformers()
    for name, value in (("LAYERS", 2), ("IMAGE_WIDTH", 128), ("TEXT_WIDTH", 64)):
        monkeypatch.setattr(clip, name, value)


def openai_state() -> dict[str, Tensor]:
    """Random weights under the names of OpenAI's code."""
    shapes: dict[str, tuple[int, ...]] = {
        "logit_scale": (),
        "visual.conv1.weight": (clip.IMAGE_WIDTH, 3, clip.PATCH, clip.PATCH),
        "visual.class_embedding": (clip.IMAGE_WIDTH,),
        "visual.positional_embedding": (50, clip.IMAGE_WIDTH),
        "visual.proj": (clip.IMAGE_WIDTH, clip.DIM),
        "token_embedding.weight": (clip.TOKENS, clip.TEXT_WIDTH),
        "positional_embedding": (clip.LONGEST, clip.TEXT_WIDTH),
        "text_projection": (clip.TEXT_WIDTH, clip.DIM),
    }
    norms = {"visual.ln_pre": clip.IMAGE_WIDTH, "visual.ln_post": clip.IMAGE_WIDTH}
    norms["ln_final"] = clip.TEXT_WIDTH
    for tower, width in (("visual.transformer", clip.IMAGE_WIDTH), ("transformer", clip.TEXT_WIDTH)):
        for i in range(clip.LAYERS):
            layer = f"{tower}.resblocks.{i}"
            shapes[f"{layer}.attn.in_proj_weight"] = (3 * width, width)
            shapes[f"{layer}.attn.in_proj_bias"] = (3 * width,)
            linears = {"attn.out_proj": (width, width), "mlp.c_fc": (4 * width, width)}
            for name, shape in {**linears, "mlp.c_proj": (width, 4 * width)}.items():
                shapes[f"{layer}.{name}.weight"], shapes[f"{layer}.{name}.bias"] = shape, shape[:1]
            norms |= {f"{layer}.ln_1": width, f"{layer}.ln_2": width}
    for name, width in norms.items():
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    generator = torch.Generator().manual_seed(1)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def normed(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def linear(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def transformer(state: Mapping[str, Tensor], tower: str, x: Tensor, *, causal: bool) -> Tensor:
    n, length, width = x.shape
    hidden = torch.full((length, length), -torch.inf).triu(1) if causal else torch.zeros(length, length)
    for i in range(clip.LAYERS):
        layer = f"{tower}.resblocks.{i}"
        h = normed(state, f"{layer}.ln_1", x)
        joint = functional.linear(
            h, state[f"{layer}.attn.in_proj_weight"], state[f"{layer}.attn.in_proj_bias"]
        )
        q, k, v = joint.view(n, length, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        seen = (q @ k.transpose(-1, -2) / HEAD**0.5 + hidden).softmax(-1) @ v
        x = x + linear(state, f"{layer}.attn.out_proj", seen.transpose(1, 2).reshape(n, length, width))
        h = linear(state, f"{layer}.mlp.c_fc", normed(state, f"{layer}.ln_2", x))
        x = x + linear(state, f"{layer}.mlp.c_proj", h * torch.sigmoid(1.702 * h))
    return x


@torch.inference_mode()
def test_images_are_embedded_as_defined() -> None:
    state, images = openai_state(), torch.randn(2, 3, clip.SIZE, clip.SIZE)
    patches = functional.conv2d(images, state["visual.conv1.weight"], stride=clip.PATCH).flatten(2).mT
    x = torch.cat([state["visual.class_embedding"].expand(2, 1, -1), patches], 1)
    x = normed(state, "visual.ln_pre", x + state["visual.positional_embedding"])
    x = transformer(state, "visual.transformer", x, causal=False)
    wanted = functional.normalize(normed(state, "visual.ln_post", x[:, 0]) @ state["visual.proj"], dim=-1)
    found = clip.ImageEncoder(clip.renamed(state)).eval()(images)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_texts_are_embedded_as_defined_and_padding_has_no_effect() -> None:
    state = openai_state()
    text = [clip.START, 320, 1125, 539, clip.END]
    x = state["token_embedding.weight"][text] + state["positional_embedding"][: len(text)]
    x = normed(state, "ln_final", transformer(state, "transformer", x[None], causal=True))
    wanted = functional.normalize(x[:, -1] @ state["text_projection"], dim=-1)
    tokens = torch.tensor([[*text, clip.END, clip.END], [clip.START, 7, 8, 9, 10, 11, clip.END]])
    found = clip.TextEncoder(clip.renamed(state)).eval()(tokens)
    torch.testing.assert_close(found[:1], wanted, rtol=0, atol=1e-5)


def test_the_table_of_tensors_is_that_of_transformers_and_of_openai() -> None:
    from transformers import CLIPConfig, CLIPModel

    sizes = {"num_hidden_layers": clip.LAYERS}
    vision = {**sizes, "hidden_size": clip.IMAGE_WIDTH, "intermediate_size": 4 * clip.IMAGE_WIDTH}
    text = {**sizes, "hidden_size": clip.TEXT_WIDTH, "intermediate_size": 4 * clip.TEXT_WIDTH}
    heads = {"num_attention_heads": 1}
    config = CLIPConfig(vision_config={**vision, **heads}, text_config={**text, **heads})
    with torch.device("meta"):
        wanted = {name: tuple(x.shape) for name, x in CLIPModel(config).state_dict().items()}
    assert dict(clip.shapes()) == wanted
    assert {name: tuple(x.shape) for name, x in clip.renamed(openai_state()).items()} == wanted


def test_random_weights_are_the_same_each_time() -> None:
    first, second = (random_tensors(clip.shapes()) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tokens_are_the_published_ones() -> None:
    """The ids that the documents of CLIP and transformers show for this text."""
    if CLIP_VOCABULARY.package is None or (path := CLIP_VOCABULARY.package.find()) is None:
        need("not installed: open_clip_torch 3.3.0, whose file of CLIP's vocabulary is read")
    tokens = clip.Tokenizer(path.read_bytes())
    assert tokens(["a photo of a cat"]).tolist() == [[49406, 320, 1125, 539, 320, 2368, 49407]]
    assert tokens(["A photo  of a CAT", "dog"])[0].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokens(["word " * 100]).shape == (1, clip.LONGEST)


def test_the_vocabulary_has_letters_of_bytes_then_merges() -> None:
    tokens = clip.Tokenizer(gzip.compress(b"header\na b\nab c</w>\n"))
    # Letters are numbered from "!"; ends of words from 256; "ab" is 512 and "abc</w>" 513.
    assert tokens(["abc ab"]).tolist() == [[clip.START, 513, ord("a") - 33, 256 + ord("b") - 33, clip.END]]


def test_frames_are_prepared_as_by_transformers() -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    for shape in ((48, 64, 3), (301, 100, 3), (224, 224, 3)):
        frame = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        wanted = CLIPImageProcessorPil()(frame, return_tensors="np", input_data_format="channels_last")
        np.testing.assert_allclose(clip.prepare(frame), wanted["pixel_values"][0], rtol=0, atol=1e-6)
