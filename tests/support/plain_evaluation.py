"""What published weights are worth, by a plain evaluation that shares no code with ours.

It follows the description of the methods: tensors under published names, one sample at a time in float64, no
padding, a loop over the betas of the grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from support.published_runs import CLASS_SPLITS, Data, Sample, Sizes
from torch import Tensor
from torch.nn import functional

State = Mapping[str, Tensor]


def _apply(s: State, name: str, x: Tensor) -> Tensor:
    return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]


def _normalise(s: State, name: str, x: Tensor) -> Tensor:
    scaled = (x - s[f"{name}.running_mean"]) / torch.sqrt(s[f"{name}.running_var"] + 1e-5)
    return scaled * s[f"{name}.weight"] + s[f"{name}.bias"]


def _project(s: State, name: str, x: Tensor) -> Tensor:
    x = torch.relu(_normalise(s, f"{name}.fc.1", _apply(s, f"{name}.fc.0", x)))
    if f"{name}.fc.4.weight" in s:
        x = torch.relu(_normalise(s, f"{name}.fc.5", _apply(s, f"{name}.fc.4", x)))
    return x


def _perceptron(s: State, name: str, x: Tensor, last_relu: bool) -> Tensor:
    hidden = torch.relu(_normalise(s, f"{name}.fc.1", _apply(s, f"{name}.fc.0", x)))
    out = _apply(s, f"{name}.fc.4", hidden)
    return torch.relu(out) if last_relu else out


def _layer_norm(s: State, name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"])


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, allowed: Tensor) -> Tensor:
    """Multi-head attention of [N, heads * d] rows, a head at a time."""
    size = q.shape[1] // heads
    gathered = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[:, part] @ k[:, part].T * size**-0.5
        gathered.append(scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v[:, part])
    return torch.cat(gathered, 1)


def _tcaf(s: State, sizes: Sizes, audio: Tensor, video: Tensor) -> Tensor:
    if sizes.lengths:
        start = max(0, (len(video) - sizes.lengths) // 2)
        steps = max(1, round(sizes.lengths * 0.64 * 0.96))
        first = min(round(start * 0.64 / 0.96), max(0, len(audio) - steps))
        video, audio = video[start : start + sizes.lengths], audio[first : first + steps]
    inputs = (
        ("A_enc", "out_proj_audio", audio / 255),
        ("V_enc", "out_proj_video", functional.normalize(video, dim=0)),
    )
    tokens, kinds = [s["cls_token"][0]], [torch.zeros(1)]
    place = "audiovisual_embeddings"
    for kind, (encoder, projection, x) in enumerate(inputs):
        steps = torch.arange(len(x), dtype=torch.float64)
        phase = 2 * np.pi * torch.stack([steps, steps], 1) @ s[f"{place}.fourier_randn"]
        position = _apply(s, f"{place}.fourier_embeddings", torch.cat([phase.sin(), phase.cos()], 1))
        extra = position + s[f"{place}.modal_embedding.weight"][kind]
        features = torch.cat([_project(s, encoder, x), extra], 1)
        tokens.append(
            features @ s[f"{place}.{projection}.weight"][:, :, 0].T + s[f"{place}.{projection}.bias"]
        )
        kinds.append(torch.full((len(x),), kind + 1.0))
    x, kind_of = torch.cat(tokens), torch.cat(kinds)
    allowed = (kind_of[:, None] != kind_of) | (kind_of[:, None] == 0) | (kind_of == 0)
    for i in range(sizes.depth):
        layer = f"Audio_visual_transformer.layers.{i}"
        y = _layer_norm(s, f"{layer}.norm", x)
        q, k, v = (y @ s[f"{layer}.attn.to_{n}.weight"].T for n in "qkv")
        x = x + _apply(s, f"{layer}.attn.to_out.0", _attend(q, k, v, sizes.heads, allowed))
        y = functional.gelu(_apply(s, f"{layer}.ff.net.0", _layer_norm(s, f"{layer}.norm", x)))
        x = x + _apply(s, f"{layer}.ff.net.3", y)
    return _project(s, "O_proj", x[:1])[0]


def _avca(s: State, sizes: Sizes, audio: Tensor, video: Tensor) -> Tensor:
    phi = torch.stack([_project(s, "A_enc", audio[None])[0], _project(s, "V_enc", video[None])[0]])
    x = phi + s["pos_emb1D"]
    for i in range(sizes.depth):
        attention, feed_forward = f"cross_attention.layers.{i}.0", f"cross_attention.layers.{i}.1"
        q, k, v = (_layer_norm(s, f"{attention}.norm", x) @ s[f"{attention}.fn.to_qkv.weight"].T).chunk(3, 1)
        x = x + _apply(s, f"{attention}.fn.to_out.0", _attend(q, k, v, 3, torch.ones(2, 2, dtype=torch.bool)))
        y = functional.gelu(_apply(s, f"{feed_forward}.fn.net.0", _layer_norm(s, f"{feed_forward}.norm", x)))
        x = x + _apply(s, f"{feed_forward}.fn.net.3", y)
    return _project(s, "V_proj", (phi + x)[1:])[0]


def _embed(method: str, s: State, sizes: Sizes, sample: Sample) -> dict[str, Tensor]:
    """Embeddings of a sample by output."""
    audio, video = torch.from_numpy(sample.audio).double(), torch.from_numpy(sample.video).double()
    if method == "tcaf":
        return {"one": _tcaf(s, sizes, audio, video)}
    audio, video = audio.mean(0), video.mean(0)
    if method == "avca":
        return {"one": _avca(s, sizes, audio, video)}
    nets = (("audio", "triplet_net.embedding_net1", audio), ("video", "triplet_net.embedding_net2", video))
    return {output: _perceptron(s, net, x[None], method == "cjme")[0] for output, net, x in nets}


def _embed_classes(method: str, s: State, text: Tensor) -> Tensor:
    if method in ("tcaf", "avca"):
        return _project(s, "W_proj", text)
    return _perceptron(s, "triplet_net.embedding_net3", text, method == "cjme")


def _distances(
    method: str, s: State, sizes: Sizes, sample: Sample, classes: Tensor
) -> dict[str, list[float]]:
    """Distances to all classes, by output; the last output is the reported one."""
    return {output: x.tolist() for output, x in _outputs(method, s, sizes, sample, classes).items()}


def _outputs(method: str, s: State, sizes: Sizes, sample: Sample, classes: Tensor) -> dict[str, Tensor]:
    outputs = {output: (x - classes).norm(dim=1) for output, x in _embed(method, s, sizes, sample).items()}
    if method == "avgzslnet":
        return {**outputs, "both": outputs["audio"] + outputs["video"]}
    if method == "cjme":
        means = torch.cat([torch.from_numpy(x).double().mean(0) for x in (sample.audio, sample.video)])
        attention = torch.sigmoid(
            _apply(s, "attention_model.1", _normalise(s, "attention_model.0", means[None]))
        )
        return {**outputs, "both": outputs["video" if attention.item() >= 0.5 else "audio"]}
    return outputs


OUTPUTS = {"tcaf": ["O_proj.fc.5"], "avca": ["V_proj.fc.5"]}
"""The last layers of the sample side: scaling their weight and bias scales the embeddings."""


def fit(method: str, sizes: Sizes, state: dict[str, Tensor], data: Data, seed: int) -> dict[str, Tensor]:
    """Make the model recognise something: embeddings of a spread that the grid of betas suits, class
    embeddings near them, nearer for the classes trained on. The last linear layer of the word side is solved
    for that."""
    state = dict(state)
    outputs = OUTPUTS.get(method, ["triplet_net.embedding_net1.fc.4", "triplet_net.embedding_net2.fc.4"])
    for i, output in enumerate(outputs):
        x = _all_embeddings(method, sizes, state, data)[:, i]
        scale = 2.0 / x.std(0).norm().item()
        state[f"{output}.weight"], state[f"{output}.bias"] = (
            state[f"{output}.weight"] * scale,
            state[f"{output}.bias"] * scale,
        )
        if method in ("cjme", "avgzslnet"):  # one centre for both outputs, as after training
            state[f"{output}.bias"] = state[f"{output}.bias"] + (1.0 - scale * x.mean(0)).float()
    again = method not in OUTPUTS  # the last ReLU keeps a positive factor
    embeddings = _all_embeddings(method, sizes, state, data).mean(1) if again else scale * x
    labels = torch.tensor([sample.label for sample in data.samples])
    noise = torch.randn(
        len(data.text), 64, generator=torch.Generator().manual_seed(seed), dtype=embeddings.dtype
    )
    targets = torch.stack([embeddings[labels == c].mean(0) for c in range(len(data.text))])
    strength = torch.tensor(
        [0.1 if c in CLASS_SPLITS["stage_1_train"] else 0.25 for c in range(len(data.text))]
    )
    targets = targets + strength[:, None] * noise
    targets = targets if method == "avgzslnet" else targets.clamp(min=0)
    text, place = torch.from_numpy(data.text).double(), "W_proj.fc.0"
    if method in ("tcaf", "avca"):
        for name, value in (("running_mean", 0.0), ("running_var", 1.0), ("weight", 1.0), ("bias", 0.0)):
            state[f"W_proj.fc.1.{name}"] = torch.full((64,), value)
    else:
        net, s = "triplet_net.embedding_net3.fc", {name: x.double() for name, x in state.items()}
        place, text = f"{net}.4", torch.relu(_normalise(s, f"{net}.1", _apply(s, f"{net}.0", text)))
    state[f"{place}.weight"] = (
        torch.linalg.lstsq(text, targets, driver="gelsd").solution.T.float().contiguous()
    )
    state[f"{place}.bias"] = torch.zeros(64)
    return state


def _all_embeddings(method: str, sizes: Sizes, state: State, data: Data) -> Tensor:
    """``[N, outputs, 64]``"""
    s = {name: x.double() for name, x in state.items()}
    return torch.stack(
        [torch.stack(list(_embed(method, s, sizes, sample).values())) for sample in data.samples]
    )


def _score(
    distances: Sequence[Sequence[float]],
    labels: Sequence[int],
    ids: Sequence[int],
    seen: set[int],
    beta: float,
) -> tuple[float, ...]:
    """S, U, HM, ZSL in percent."""
    right: dict[int, list[bool]] = {}
    right_zsl: dict[int, list[bool]] = {}
    for row, label in zip(distances, labels, strict=True):
        shifted = {c: row[c] + (beta if c in seen else 0.0) for c in ids}
        right.setdefault(label, []).append(min(ids, key=lambda c, d=shifted: d[c]) == label)  # type: ignore[misc]
        if label not in seen:
            unseen = [c for c in ids if c not in seen]
            right_zsl.setdefault(label, []).append(min(unseen, key=lambda c, d=row: d[c]) == label)  # type: ignore[misc]

    def mean(table: Mapping[int, list[bool]], wanted: bool) -> float:
        return 100 * float(np.mean([np.mean(r) for c, r in table.items() if (c in seen) == wanted]))

    s, u = mean(right, True), mean(right, False)
    return s, u, 2 * s * u / (s + u) if s + u else 0.0, mean(right_zsl, False)


def plain_evaluation(
    method: str, sizes: Sizes, state_a: State, state_b: State, data: Data
) -> dict[str, float]:
    """seen, unseen, hm, zsl (percent) and beta of model B on the test splits, beta chosen by model A on
    validation."""
    text = torch.from_numpy(data.text).double()

    def measure(state: State, seen_split: str, unseen_split: str) -> tuple[Any, ...]:
        s = {name: x.double() for name, x in state.items()}
        samples = data.of(seen_split, unseen_split)
        classes = _embed_classes(method, s, text)
        rows = [_distances(method, s, sizes, sample, classes) for sample in samples]
        ids = sorted({*CLASS_SPLITS[seen_split], *CLASS_SPLITS[unseen_split]})
        return rows, [sample.label for sample in samples], ids, set(CLASS_SPLITS[seen_split])

    rows, *rest = measure(state_a, "stage_1_val_seen", "stage_1_val_unseen")
    betas = []
    for output in rows[0]:
        found = [(_score([r[output] for r in rows], *rest, beta)[2], beta) for beta in np.arange(16) * 0.2]
        betas.append(max(found, key=lambda pair: pair[0])[1])
    beta = float(np.mean(betas))
    rows, *rest = measure(state_b, "stage_2_test_seen", "stage_2_test_unseen")
    numbers = _score([list(r.values())[-1] for r in rows], *rest, beta)
    return {**dict(zip(("seen", "unseen", "hm", "zsl"), numbers, strict=True)), "beta": beta}
