"""ClipClap, Hyper-* and HSP-MoE equal the published code (golden/README-later.md).

What comes before training is compared in float32, what comes after it in float64: biases in front of a
BatchNorm turn float32 rounding into steps of full size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from support.checkout import SHARED
from support.tiny import need
from torch import Tensor

from benchmark.method import Batch, Classes, Method, Spec, euclidean
from benchmark.protocol.evaluation import Calibration, Nearest, grid
from methods.avca import Avca
from methods.clipclap import ClipClap
from methods.hspmoe import HspMoe
from methods.hyper import Hyper, HyperAlignment, HyperMultiple, HyperSingle

GOLDEN = SHARED / "golden"
CLIP_CLAP = Spec(1024, 512, 1536, 1.0, 1.0, {"video": 512, "audio": 1024})
SINGLE = {"rtol": 1e-5, "atol": 1e-6}
"""Bounds of float32, before training."""


@pytest.fixture(autouse=True)
def _golden() -> None:
    if not GOLDEN.is_dir():
        need(f"golden numbers not found in {GOLDEN} (set GZSL_SHARED)")


@cache
def stored(file: str, precision: torch.dtype = torch.float32) -> Mapping[str, Tensor]:
    with np.load(GOLDEN / file) as arrays:
        tensors = {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}
    return {name: x.to(precision) if x.is_floating_point() else x for name, x in tensors.items()}


def config(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / name / "config.json").read_text())
    return found


def texts(name: str, precision: torch.dtype) -> Tensor:
    data = stored(f"{name}/data.npz", precision)
    return torch.cat([data["class_text_clip"], data["class_text_wavcaps"]], dim=1)


def batch(name: str, prefix: str, precision: torch.dtype) -> Batch:
    data, text = stored(f"{name}/data.npz", precision), texts(name, precision)
    label = data[f"{prefix}_label"]
    of_label = text[stored(f"{name}/data.npz")["train_class_ids"]] if name == "hspmoe" else text
    used = {"label": label, "text": of_label[label]} if not prefix.startswith(("val", "test")) else {}
    return Batch(data[f"{prefix}_audio"], data[f"{prefix}_video"], **used)


def model_of(cls: Any, name: str, state: Mapping[str, Tensor], precision: torch.dtype, **changes: Any) -> Any:
    settings = cls.published_config(config(name)).model_copy(update={"encoder_dropout": 0.0, **changes})
    model: Method = cls(settings, CLIP_CLAP).to(precision)
    model.load_state_dict(cls.published_state(state))
    return model


def assert_state(
    ours: Mapping[str, Tensor], expected: Mapping[str, Tensor], stride: int, relative: float
) -> None:
    """Weights after training; large tensors are stored with a stride."""
    assert ours.keys() == expected.keys()
    for name, published in expected.items():
        x = ours[name] if published.shape == ours[name].shape else ours[name].flatten()[::stride]
        torch.testing.assert_close(x, published.to(x.dtype), rtol=relative, atol=relative, msg=name)


def train(model: Method, batches: list[Batch], classes: Tensor, parts: tuple[str, ...]) -> Tensor:
    """Published steps; the losses before each, ``[steps, parts]``."""
    optimizer, losses = model.train().optimizer(), []
    for each in batches:
        terms = model.loss(each, Classes(classes))
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        model.after_step(each)
        losses.append(torch.stack([terms[part].detach() for part in parts]))
    return torch.stack(losses)


PARTS = ("total", "regression", "reconstruction", "classification")


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_clipclap_embeddings_and_losses_before_training(precision: torch.dtype) -> None:
    data, text = stored("clipclap/data.npz", precision), texts("clipclap", precision)
    model = model_of(ClipClap, "clipclap", stored("clipclap/weights_before.npz"), precision).eval()
    with torch.no_grad():
        theta_o = model.embed(batch("clipclap", "eval", precision)).outputs["joint"]
        losses = model.loss(batch("clipclap", "train0", precision), Classes(text))
        torch.testing.assert_close(theta_o, data["embed_theta_o"], **SINGLE)
        torch.testing.assert_close(model.embed_classes(text), data["embed_theta_w"], **SINGLE)
        expected = data["eval_mode_losses_total_reg_rec_ce"]
        torch.testing.assert_close(torch.stack([losses[part] for part in PARTS]), expected, **SINGLE)
        model.train()
        first = model.loss(batch("clipclap", "train0", precision), Classes(text))
        expected = data["train_losses_total_reg_rec_ce"][0]
        torch.testing.assert_close(torch.stack([first[part] for part in PARTS]), expected, **SINGLE)


@pytest.mark.parametrize("variant", ["audio", "video", "clip", "wavcaps"])
def test_clipclap_variants(variant: str) -> None:
    double, columns = torch.float64, {"audio": slice(512, None), "video": slice(512)}
    columns |= {"clip": columns["video"], "wavcaps": columns["audio"]}
    state = dict(stored("clipclap/weights_before.npz"))
    cut = ("O_enc", "W_enc") if variant in ("audio", "video") else ("W_enc",)
    state |= {f"{x}.fc.0.weight": state[f"{x}.fc.0.weight"][:, columns[variant]] for x in cut}
    option = "modality" if variant in ("audio", "video") else "word_embeddings"
    model = model_of(ClipClap, "clipclap", state, double, **{option: variant}).eval()
    data, text = stored("clipclap/data.npz", double), texts("clipclap", double)
    with torch.no_grad():
        theta_o = model.embed(batch("clipclap", "eval", double)).outputs["joint"]
        torch.testing.assert_close(theta_o, data[f"variant_{variant}_embed_theta_o"], **SINGLE)
        torch.testing.assert_close(
            model.embed_classes(text), data[f"variant_{variant}_embed_theta_w"], **SINGLE
        )
        losses = model.train().loss(batch("clipclap", "train0", double), Classes(text))
    expected = stored("clipclap/float64.npz", double)[f"variant_{variant}_losses_total_reg_rec_ce"]
    torch.testing.assert_close(torch.stack([losses[p] for p in PARTS]), expected, rtol=1e-10, atol=1e-10)


def test_clipclap_after_five_steps() -> None:
    double, settings = torch.float64, config("clipclap")
    expected, text = stored("clipclap/float64.npz", double), texts("clipclap", double)
    model = model_of(ClipClap, "clipclap", stored("clipclap/weights_before.npz"), double)
    steps = [batch("clipclap", f"train{i}", double) for i in range(settings["steps"])]

    losses = train(model, steps, text, PARTS)

    torch.testing.assert_close(losses, expected["train_losses_total_reg_rec_ce"], rtol=1e-10, atol=1e-10)
    model.eval()
    with torch.no_grad():
        theta_o = model.embed(batch("clipclap", "eval", double)).outputs["joint"]
        torch.testing.assert_close(theta_o, expected["after_train_embed_theta_o"], rtol=1e-7, atol=1e-7)
        theta_w = model.embed_classes(text)
        torch.testing.assert_close(theta_w, expected["after_train_embed_theta_w"], rtol=1e-7, atol=1e-7)
    after = ClipClap.published_state(stored("clipclap/weights_after_float64.npz", double))
    assert_state(model.state_dict(), after, settings["weights_after"]["else_flat_stride"], 1e-7)


def far(model: HspMoe, part: str, precision: torch.dtype) -> dict[str, Tensor]:
    """Embeddings, distances and scale of a split, as the golden numbers have them."""
    data, samples = stored("hspmoe/data.npz"), batch("hspmoe", part, precision)
    with torch.no_grad():
        embeddings = model.embed(samples)
        classes = model.embed_classes(texts("hspmoe", precision)[data["part_class_ids"]])
        direction, weights = model.router(samples.video, samples.audio)
        adapted, raw = model._both_distances(embeddings, classes)
        model.summary = model.summarise(embeddings, classes)
        mixed = model.distances(embeddings, classes)["joint"]
    return {
        "embed_q": embeddings.outputs["joint"][:, :64],
        "embed_k": classes[:, :64],
        "moe_direction": direction,
        "router_weights": weights,
        "distance_adapted": adapted,
        "distance_raw": raw,
        "distance_far": mixed,
        "far_scale": torch.tensor(model.summary["far_scale"]),
    }


def assert_far(found: Mapping[str, Tensor], prefix: str, part: str, expected: Mapping[str, Tensor]) -> None:
    for name, x in found.items():
        of = f"{prefix}{name}" if name == "embed_k" else f"{prefix}{part}_{name}"
        # Distances are compared in float32: the evaluation computes them so.
        torch.testing.assert_close(x.double(), expected[of].double(), rtol=1e-5, atol=2e-6, msg=of)


HSP_PARTS = (*PARTS, "distribution", "relation", "uniformity")


@pytest.mark.parametrize("part", ["val", "test"])
def test_hspmoe_embeddings_and_distances_before_training(part: str) -> None:
    single = torch.float32
    model = model_of(HspMoe, "hspmoe", stored("hspmoe/weights_before.npz"), single, router_dropout=0.0).eval()

    assert_far(far(model, part, single), "", part, stored("hspmoe/data.npz"))


def test_hspmoe_after_five_steps() -> None:
    double, settings = torch.float64, config("hspmoe")
    expected, ids = stored("hspmoe/float64.npz", double), stored("hspmoe/data.npz")["train_class_ids"]
    model = model_of(HspMoe, "hspmoe", stored("hspmoe/weights_before.npz"), double, router_dropout=0.0)
    text = texts("hspmoe", double)[ids]
    with torch.no_grad():
        before = model.eval().loss(batch("hspmoe", "train0", double), Classes(text))
    assert not before.keys() & {"distribution", "relation", "uniformity"}
    assert_close = torch.testing.assert_close
    evaluated = torch.stack([before[p] for p in PARTS])
    assert_close(evaluated, stored("hspmoe/data.npz", double)["eval_mode_losses_total_reg_rec_ce"], **SINGLE)
    steps = [batch("hspmoe", f"train{i}", double) for i in range(settings["steps"])]

    losses = train(model, steps, text, HSP_PARTS)

    weights = torch.tensor([1, 1, 1, 1, 0.001, 0.0002, 0.0002], dtype=double)
    golden = expected["train_losses_total_reg_rec_ce_dp_rp_hup"] * weights
    assert_close(losses, golden, rtol=1e-10, atol=1e-10)
    after = HspMoe.published_state(stored("hspmoe/weights_after_float64.npz", double))
    assert_state(model.state_dict(), after, settings["weights_after"]["else_flat_stride"], 1e-7)
    for part in ("val", "test"):
        found = far(model.eval(), part, double)
        assert_far(found, "after_train_", part, expected)
        assert_close(found["embed_q"], expected[f"after_train_{part}_embed_q"], rtol=1e-7, atol=1e-7)


def nearest_of(distances: Tensor, part: str, which: str = "hspmoe") -> Nearest:
    data = stored(f"{which}/data.npz")
    ids, seen, label = (data[x].numpy() for x in ("part_class_ids", "seen_ids", f"{part}_label"))
    return Nearest.of(distances.float().numpy(), ids, seen, label)


def test_hspmoe_evaluation_with_and_without_far() -> None:
    expected = json.loads((GOLDEN / "hspmoe" / "expected.json").read_text())
    single, before = torch.float32, stored("hspmoe/weights_before.npz")
    model = model_of(HspMoe, "hspmoe", before, single, router_dropout=0.0).eval()
    found = {part: far(model, part, single) for part in ("val", "test")}
    validation, test = (nearest_of(found[part]["distance_far"], part) for part in ("val", "test"))

    assert_scores(validation, expected["with_far"]["validation"])
    assert_scores(test, expected["with_far"]["test"])
    chosen = chosen_beta(validation)
    assert chosen == pytest.approx(expected["with_far"]["beta_applied"], abs=1e-6)
    alone = nearest_of(found["val"]["distance_adapted"], "val")
    assert_scores(alone, expected["without_far_validation"])
    assert chosen_beta(alone) == pytest.approx(expected["without_far_validation"]["beta"], abs=1e-6)


def chosen_beta(nearest: Nearest) -> float:
    betas = grid(*HspMoe.published_grid)
    options: dict[str, Any] = {"exact": False, "mean_of_outputs": True, "betas": betas}
    return Calibration.choose({"": nearest}, "", **options).beta


def assert_scores(nearest: Nearest, golden: Mapping[str, float]) -> None:
    for name, value in nearest.at(golden["beta"]).as_dict().items():
        assert value == pytest.approx(golden[name], abs=1e-6), name


@pytest.mark.parametrize("case", ["mid", "zero", "beyond3"])
def test_evaluation_on_the_grid_of_76(case: str) -> None:
    data = stored("evaluation_grid76/data.npz")
    expected = json.loads((GOLDEN / "evaluation_grid76" / "expected.json").read_text())["cases"][case]
    parts = {}
    for part in ("val", "test"):
        theta_o, theta_w, *facts = (
            data[f"{case}_{part}_{name}"] for name in ("theta_o", "theta_w", "class_ids", "seen_ids", "label")
        )
        parts[part] = Nearest.of(euclidean(theta_o, theta_w).numpy(), *(fact.numpy() for fact in facts))

    assert chosen_beta(parts["val"]) == pytest.approx(expected["beta_applied"], abs=1e-6)
    assert_scores(parts["val"], expected["validation"])
    assert_scores(parts["test"], expected["test"])
    for beta, row in zip(grid(5.0, 76), data[f"{case}_val_curve_seen_unseen_hm"], strict=True):
        scores = parts["val"].at(float(beta))
        assert [scores.seen, scores.unseen, scores.hm] == pytest.approx(row.tolist(), abs=1e-5)


FRAMEWORKS: dict[str, type[Hyper]] = {
    "alignment": HyperAlignment,
    "single": HyperSingle,
    "multiple": HyperMultiple,
}
HYPER_SPEC = Spec(16, 32, 300, 0.96, 0.64)
NAMES = {
    "encoder_hidden_size": "embeddings_hidden_size",
    "dropout_encoder": "embedding_dropout",
    "dropout_decoder": "decoder_dropout",
}


def hyper(framework: str, similarity: str, prefix: str, precision: torch.dtype) -> Hyper:
    cls: Any = FRAMEWORKS[framework]
    golden = config(f"hyper_{framework}_{similarity}")
    args = {NAMES.get(name, name): value for name, value in golden.items()}
    args |= {"curvature": golden["curvature"][prefix]}
    state = dict(stored("hyper_common/weights_before.npz"))
    fusenet = stored("hyper_common/fusenet.npz")
    state |= {
        name.removeprefix(f"{framework}."): x for name, x in fusenet.items() if name.startswith(framework)
    }
    model: Hyper = cls(cls.published_config(args), HYPER_SPEC).to(precision)
    model.load_state_dict(cls.published_state(state))
    return model


def assert_hyper_state(model: Hyper, after: Mapping[str, Tensor], stride: int) -> None:
    """Compare the published attention's weight whole: ours are its three parts."""
    ours, qkv = model.state_dict(), "cross_attention.layers.0.0.fn.to_qkv.weight"
    parts = [ours.pop(f"layers.0.attention.{x}.weight") for x in ("query", "key", "value")]
    expected = type(model).published_state({**after, qkv: torch.zeros(3, 1)})
    expected = {name: x for name, x in expected.items() if name in ours}
    assert_state({**ours, qkv: torch.cat(parts)}, {**expected, qkv: after[qkv]}, stride, 1e-5)


def hyper_batch(i: int, precision: torch.dtype) -> Batch:
    data = stored("hyper_common/data.npz", precision)
    text, prefix = data["class_text"], f"train{i}"
    negative = Batch(
        data[f"{prefix}_negative_audio"],
        data[f"{prefix}_negative_video"],
        text=text[data[f"{prefix}_negative_label"]],
    )
    label = data[f"{prefix}_label"]
    return Batch(
        data[f"{prefix}_audio"], data[f"{prefix}_video"], label=label, text=text[label], negative=negative
    )


@pytest.mark.parametrize("prefix", ["small", "mixed", "published"])
@pytest.mark.parametrize("similarity", ["norm", "cosine"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_hyper(framework: str, similarity: str, prefix: str) -> None:
    double, name = torch.float64, f"hyper_{framework}_{similarity}"
    golden, expected = config(name), stored(f"{name}/float64.npz", torch.float64)
    model = hyper(framework, similarity, prefix, double)
    steps = [hyper_batch(i, double) for i in range(golden["steps"])]
    text = stored("hyper_common/data.npz", double)["class_text"]
    exact = prefix == "published" and similarity == "norm"  # there the term is 0 but for rounding
    bound = 1e-5 if similarity == "norm" else 1e-7

    # The term and its gradients at the first step.
    batch, close = steps[0], torch.testing.assert_close
    model.train()
    positive, negative = model._pass_pair(batch, batch.text)
    phi = {"a": positive.phi_a, "v": positive.phi_v, "a_neg": negative.phi_a, "v_neg": negative.phi_v}
    for which, x in phi.items():
        close(x, expected[f"{prefix}_train0_phi_{which}"], rtol=1e-10, atol=1e-10)
        x.retain_grad()
    term = model.added_terms(positive, negative)["hyperbolic"]
    term.backward()
    if exact:
        assert abs(term.item()) < 1e-6
    else:
        close(term, expected[f"{prefix}_train_align_term"][0], rtol=bound, atol=1e-12)
        for which, x in phi.items():
            close(x.grad, expected[f"{prefix}_term_grad_phi_{which}"], rtol=1e-4, atol=1e-9)
    modules = {"A_enc": model.audio_encoder, "V_enc": model.video_encoder}
    for module, ours in modules.items():
        norm = torch.sqrt(sum(((p.grad**2).sum() for p in ours.parameters()), torch.zeros((), dtype=double)))
        close(norm, expected[f"{prefix}_term_grad_norm_{module}"], rtol=1e-4, atol=1e-9)

    # Five steps.
    model = hyper(framework, similarity, prefix, double)
    losses = train(model, steps, text, ("total", "hyperbolic"))
    close(losses[:, 0], expected[f"{prefix}_train_loss_total"], rtol=max(bound, 1e-9), atol=1e-9)
    if not exact:
        close(losses[:, 1], expected[f"{prefix}_train_align_term"], rtol=bound, atol=1e-12)
    after = stored(f"{name}/weights_after_{prefix}_float64.npz", double)
    assert_hyper_state(model, after, golden["weights_after"]["else_flat_stride"])
    data = stored("hyper_common/data.npz", double)
    with torch.no_grad():
        theta_a, theta_v = model.eval().sample_embeddings(Batch(data["eval_audio"], data["eval_video"]))
        theta_w = model.embed_classes(text)
    for which, x in {"a": theta_a, "v": theta_v, "w": theta_w}.items():
        close(x, expected[f"{prefix}_after_train_embed_theta_{which}"], rtol=1e-5, atol=1e-5)


def test_hyper_starts_as_avca() -> None:
    """The layer of the curvatures is created last, so all other initial weights are AVCA's."""
    settings = {"lr": 1e-3, "encoder_hidden": 24, "projection_hidden": 20}
    torch.manual_seed(3)
    avca = Avca(Avca.Config(**settings), HYPER_SPEC).state_dict()
    torch.manual_seed(3)
    multiple = HyperMultiple(HyperMultiple.Config(**settings), HYPER_SPEC).state_dict()

    assert multiple.keys() - avca.keys() == {"curvature_of.weight", "curvature_of.bias"}
    assert all(torch.equal(multiple[name], x) for name, x in avca.items())


@pytest.mark.parametrize(
    ("cls", "changes", "parameters"),
    [
        (ClipClap, {}, 2_237_824),
        (ClipClap, {"modality": "audio"}, 1_713_536),
        (ClipClap, {"modality": "video"}, 1_189_248),
        (ClipClap, {"word_embeddings": "clip"}, 1_713_536),
        (ClipClap, {"word_embeddings": "wavcaps"}, 1_975_680),
        (HspMoe, {}, 2_776_131),
    ],
)
def test_numbers_of_parameters(cls: Any, changes: dict[str, Any], parameters: int) -> None:
    model = cls(cls.Config(**changes), CLIP_CLAP)

    assert sum(p.numel() for p in model.parameters()) == parameters


def test_released_names_are_read() -> None:
    state = stored("clipclap/weights_before.npz")
    earlier = {n.replace("O_enc.", "input_proj.").replace("W_enc.", "w_emb."): x for n, x in state.items()}

    assert ClipClap.published_state(earlier).keys() == ClipClap.published_state(state).keys()


def test_golden_is_complete() -> None:
    """Every folder of the later methods is read by a test."""
    later = {path.name for path in GOLDEN.iterdir() if path.name.startswith(("clip", "hyper", "hsp"))}
    here = {
        "clipclap",
        "hspmoe",
        "hyper_common",
        *(f"hyper_{f}_{s}" for f in FRAMEWORKS for s in ("norm", "cosine")),
    }
    elsewhere = {"clipclap_text", "clipclap_layout", "clip_frames"}

    assert later == here | elsewhere
