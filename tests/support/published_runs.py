"""Run folders as the published code bases write them, and small data to test them on: tensors under published
names, stored arguments, checkpoints of both stages."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.data.store import SPLITS, ModalityContent, StoreContent, write_store

CLASS_OF = {
    "tcaf": "Multimodal_Sequence_Transformer",
    "avca": "AVCA",
    "cjme": "CJME",
    "avgzslnet": "AVGZSLNet",
}
AUDIO_DIM, VIDEO_DIM, TEXT_DIM = 12, 20, 300
MANUAL = ["vv", "c", "z", "a", "q", "b", "y", "d", "w", "f"]
"""Manual names of the classes, whose own names are sorted: the official alignment gives most of them another
vector."""
CLASS_SPLITS = dict(
    zip(SPLITS, ([0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6], [0, 1, 2, 3, 4, 5, 6], [7, 8, 9]), strict=True)
)
PER_CLASS = 6


@dataclass(frozen=True)
class Sample:
    """One video: features as stored."""

    audio: np.ndarray
    video: np.ndarray
    label: int
    split: str


@dataclass(frozen=True)
class Data:
    """Samples, and the word vector that published code gives to each class."""

    samples: Sequence[Sample]
    text: np.ndarray

    def of(self, *splits: str) -> list[Sample]:
        return [s for s in self.samples if s.split in splits]


def make_data(seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(MANUAL), AUDIO_DIM + VIDEO_DIM))
    samples = []
    for split, classes in CLASS_SPLITS.items():
        for label in classes:
            for _ in range(PER_CLASS):
                lengths = rng.integers(1, 9, 2)
                audio = 128 + 60 * centres[label, :AUDIO_DIM] + 30 * rng.normal(size=(lengths[0], AUDIO_DIM))
                video = np.maximum(
                    0, 2 * centres[label, AUDIO_DIM:] + rng.normal(size=(lengths[1], VIDEO_DIM))
                )
                samples.append(Sample(audio.astype("f4"), video.astype("f4"), label, split))
    vectors = rng.normal(size=(len(MANUAL), TEXT_DIM))
    return Data(samples, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4"))


def write_data(path: Path, data: Data) -> None:
    """The store of dataset ``ucf``, features ``cls``.

    Row k of the sorted vectors is what class k gets officially.
    """

    def modality(name: str, dim: int) -> ModalityContent:
        frames = [getattr(s, name) for s in data.samples]
        return ModalityContent(dim, np.concatenate(frames), np.cumsum([0, *(len(x) for x in frames)]))

    names = sorted(MANUAL)
    write_store(
        path,
        StoreContent(
            dataset="ucf",
            features="cls",
            generated=True,
            class_names=[f"class {i}" for i in range(len(MANUAL))],
            class_splits=CLASS_SPLITS,
            vector_names=names,
            vectors=data.text,
            own_vector=[names.index(name) for name in MANUAL],
            ids=[f"v_{i:04d}_g01_c01" for i in range(len(data.samples))],
            labels=np.array([s.label for s in data.samples], np.int64),
            splits=np.array([SPLITS.index(s.split) for s in data.samples], np.uint8),
            audio=modality("audio", AUDIO_DIM),
            video=modality("video", VIDEO_DIM),
        ),
    )


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model, as the stored arguments name them."""

    hidden: int = 24
    decoder: int = 20
    depth: int = 2
    heads: int = 3
    dim_head: int = 8
    mlp: int = 16
    embedding: int = 8
    """``transformer_embedding_dim``"""
    lengths: int | None = None
    """Fixed length of the test; None for max."""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self, method: str, stage_b: bool) -> dict[str, Any]:
        """The arguments beside a checkpoint."""
        common = {
            "dataset_name": "UCF",
            "feature_extraction_method": "cls_features_non_averaged",
            "zero_shot_split": "cls_split",
            "input_size": None,
            "input_size_audio": AUDIO_DIM,
            "input_size_video": VIDEO_DIM,
            "embeddings_hidden_size": self.hidden,
            "decoder_hidden_size": self.decoder,
            "embedding_dropout": 0.3,
            "decoder_dropout": 0.1,
            "additional_dropout": 0.1,
            "lr": 0.001,
            "bs": 64,
            "n_batches": 300,
            "epochs": 50,
            "lr_scheduler": True,
            "seed": 42,
            "retrain_all": stage_b,
            "distance_fn": "L2Loss",
            "root_dir": Path("/data/UCF"),
            "log_dir": Path("logs"),
            "exp_name": None,
        }
        return {**common, **self._own_arguments(method), **self.extra}

    def _own_arguments(self, method: str) -> dict[str, Any]:
        if method == "tcaf":
            lengths = {"batch_seqlen_train": "max", "batch_seqlen_test": "max"}
            if self.lengths:
                for split, cut in (("train", "random"), ("test", "center")):
                    lengths |= {
                        f"batch_seqlen_{split}": "fixed",
                        f"batch_seqlen_{split}_maxlen": self.lengths,
                    }
                    lengths |= {f"batch_seqlen_{split}_trim": cut}
            return {
                **lengths,
                "new_model_sequence": True,
                "selavi": False,
                "transformer_dim": 300,
                "transformer_depth": self.depth,
                "transformer_heads": self.heads,
                "transformer_dim_head": self.dim_head,
                "transformer_mlp_dim": self.mlp,
                "transformer_dropout": 0.3,
                "transformer_embedding_dim": self.embedding,
                "transformer_embedding_dropout": 0.2,
                "transformer_embedding_time_len": 120,
                "transformer_embedding_time_embed_type": "fourier",
                "transformer_embedding_fourier_scale": 10.0,
                "transformer_embedding_modality": True,
                "transformer_use_embedding_net": True,
                "transformer_use_class_token": True,
                "use_self_attention": False,
                "use_cross_attention": True,
                "rec_loss": True,
                "reg_loss": True,
                "cross_entropy_loss": True,
            }
        if method == "avca":
            triplets = {
                "first_additional_triplet": 1,
                "second_additional_triplet": 1,
                "additional_triplets_loss": True,
            }
            return {
                "AVCA": True,
                "depth_transformer": self.depth,
                "momentum": 0.1,
                "reg_loss": True,
                **triplets,
            }
        own = {"embedding_use_bn": True, "margin": 1.0}
        if method == "cjme":
            return {**own, "cjme": True, "dropout_baselines": 0.2}
        return {**own, "decoder_use_bn": True, "normalize_decoder_outputs": True}


def shapes(method: str, s: Sizes) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a published model by name."""
    make = {"tcaf": _tcaf_shapes, "avca": _avca_shapes}.get(method)
    return make(s) if make else _baseline_shapes(method, s)


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{x}": (size,) for x in ("weight", "bias", "running_mean", "running_var")} | {
        f"{name}.num_batches_tracked": ()
    }


def _block(name: str, inputs: int, hidden: int | None, outputs: int) -> dict[str, tuple[int, ...]]:
    first = hidden or outputs
    tensors = _linear(f"{name}.fc.0", inputs, first) | _norm(f"{name}.fc.1", first)
    return tensors | (
        _linear(f"{name}.fc.4", hidden, outputs) | _norm(f"{name}.fc.5", outputs) if hidden else {}
    )


def _tcaf_shapes(s: Sizes) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {"cls_token": (1, 1, 300)}
    tensors |= _block("A_enc", AUDIO_DIM, s.hidden, 300) | _block("V_enc", VIDEO_DIM, s.hidden, 300)
    tensors |= _block("W_proj", TEXT_DIM, None, 64) | _block("D_w", 64, None, TEXT_DIM)
    tensors |= _block("O_proj", 300, s.decoder, 64) | _block("D_o", 64, s.decoder, TEXT_DIM)
    e = s.embedding
    for copy in ("position_encoder_block", "audiovisual_embeddings"):
        tensors |= {f"{copy}.fourier_randn": (2, e // 2), f"{copy}.modal_embedding.weight": (2, e)}
        tensors |= {**_linear(f"{copy}.fourier_embeddings", e, e), f"{copy}.pad_embedding.weight": (1, e)}
        for m in ("audio", "video"):
            tensors |= {f"{copy}.out_proj_{m}.weight": (300, 300 + e, 1), f"{copy}.out_proj_{m}.bias": (300,)}
    for i in range(s.depth):
        layer, inner = f"Audio_visual_transformer.layers.{i}", s.heads * s.dim_head
        tensors |= {f"{layer}.attn.to_{x}.weight": (inner, 300) for x in "qkv"}
        tensors |= _linear(f"{layer}.attn.to_out.0", inner, 300)
        tensors |= _linear(f"{layer}.ff.net.0", 300, s.mlp) | _linear(f"{layer}.ff.net.3", s.mlp, 300)
        tensors |= {f"{layer}.norm.{x}": (300,) for x in ("weight", "bias")}
    return tensors


def _avca_shapes(s: Sizes) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {"pos_emb1D": (2, 300)}
    tensors |= _block("A_enc", AUDIO_DIM, s.hidden, 300) | _block("V_enc", VIDEO_DIM, s.hidden, 300)
    for i in range(s.depth):
        attention, feed_forward = f"cross_attention.layers.{i}.0", f"cross_attention.layers.{i}.1"
        tensors |= {
            f"{split}.norm.{x}": (300,) for split in (attention, feed_forward) for x in ("weight", "bias")
        }
        tensors |= {
            f"{attention}.fn.to_qkv.weight": (900, 300),
            **_linear(f"{attention}.fn.to_out.0", 300, 300),
        }
        tensors |= _linear(f"{feed_forward}.fn.net.0", 300, 64) | _linear(f"{feed_forward}.fn.net.3", 64, 300)
    tensors |= _block("W_proj", TEXT_DIM, None, 64) | _block("D", 64, None, TEXT_DIM)
    for m in "AV":
        tensors |= _block(f"{m}_proj", 300, s.decoder, 64) | _block(f"{m}_rec", 64, None, 300)
    return tensors


def _baseline_shapes(method: str, s: Sizes) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {}
    for i, (inputs, hidden) in enumerate(((AUDIO_DIM, s.hidden), (VIDEO_DIM, s.hidden), (TEXT_DIM, 300)), 1):
        name = f"triplet_net.embedding_net{i}.fc"
        tensors |= (
            _linear(f"{name}.0", inputs, hidden)
            | _norm(f"{name}.1", hidden)
            | _linear(f"{name}.4", hidden, 64)
        )
    if method == "cjme":
        both = AUDIO_DIM + VIDEO_DIM
        return tensors | _norm("attention_model.0", both) | _linear("attention_model.1", both, 1)
    name = "decoder_net.embedding_net.fc"
    return (
        tensors
        | _linear(f"{name}.0", 64, s.decoder)
        | _norm(f"{name}.1", s.decoder)
        | _linear(f"{name}.4", s.decoder, TEXT_DIM)
    )


def make_state(method: str, sizes: Sizes, seed: int) -> dict[str, Tensor]:
    """Random weights under published names."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes(method, sizes).items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(300)
        elif name.endswith("running_var"):
            state[name] = 0.5 + values.abs()
        elif name.endswith("weight") and len(shape) > 1:
            state[name] = values * (2 / shape[1]) ** 0.5
        else:
            state[name] = values * (1.0 if name in ("cls_token", "pos_emb1D") else 0.3)
    for name in [n for n in state if n.startswith("position_encoder_block.")]:
        state[name] = state[name.replace("position_encoder_block", "audiovisual_embeddings")].clone()
    return state


def write_run(
    folder: Path,
    method: str,
    sizes: Sizes,
    *,
    epoch: int = 7,
    states: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None,
    protocol: int = 4,
) -> tuple[Path, Path]:
    """Both stages of a training.

    Stage A kept ``epoch`` (its file holds one more), stage B has a file for each epoch.
    """
    a, b = folder / "stage_a", folder / "stage_b"
    (a / "checkpoints").mkdir(parents=True)
    (b / "checkpoints").mkdir(parents=True)
    state_a, state_b = states or (make_state(method, sizes, 1), make_state(method, sizes, 2))
    for path, stage_b in ((a, False), (b, True)):
        arguments = argparse.Namespace(**sizes.arguments(method, stage_b))
        (path / "args.pkl").write_bytes(pickle.dumps(arguments, protocol))
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))]).state_dict()
    name = CLASS_OF[method]
    common = {"optimizer": optimizer, "metric": np.float64(0.25)}
    torch.save({"epoch": epoch + 1, "model": state_a, **common}, a / f"{name}_score.pt")
    for e in (epoch - 1, epoch):
        state = state_b if e == epoch else make_state(method, sizes, 99)
        torch.save(
            {"epoch": e + 1, "model": state, **common}, b / "checkpoints" / f"{name}_score_ckpt_{e}.pt"
        )
    return a, b
