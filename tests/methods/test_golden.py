"""Our methods against numbers computed by the published implementations (mode ``paper``, dropout 0).

Published numbers in float64, if there are any, are compared in float64. Those in float32 are rounded, so ours
are computed in float64 and in float32, and the nearer ones count. float64 has almost no rounding, and float32
may have exactly the published rounding if both take sums in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.checkout import SHARED
from support.tiny import need
from torch import Tensor, nn
from torch.nn import functional

from benchmark.method import Batch, Classes, Method, Spec
from methods.avca import Avca
from methods.avgzslnet import AvgzslNet
from methods.cjme import Cjme
from methods.tcaf import Tcaf

GOLDEN = SHARED / "golden"


@pytest.fixture(autouse=True)
def _golden() -> None:
    if not GOLDEN.is_dir():
        need(f"golden numbers not found in {GOLDEN} (set GZSL_SHARED)")


METHODS: dict[str, type[Method]] = {"tcaf": Tcaf, "avca": Avca, "cjme": Cjme, "avgzslnet": AvgzslNet}
OUTPUTS = {
    "tcaf": {"joint": "embed_theta_o"},
    "avca": {"video": "embed_theta_v"},
    "cjme": {"audio": "embed_audio", "video": "embed_video"},
    "avgzslnet": {"audio": "embed_audio", "video": "embed_video"},
}
CLASSES = {
    "tcaf": "embed_theta_w",
    "avca": "embed_theta_w",
    "cjme": "embed_classes",
    "avgzslnet": "embed_classes",
}
ARGUMENT_NAMES = {
    "encoder_hidden_size": "embeddings_hidden_size",
    "dropout_encoder": "embedding_dropout",
    "dropout_decoder": "decoder_dropout",
    "transformer_attention_use_self_attention": "use_self_attention",
    "transformer_attention_use_cross_attention": "use_cross_attention",
}
"""Names in config.json of the goldens -> names in the args.pkl of published checkpoints."""


BOUND, TWICE = (1e-5, 1e-6), (2e-5, 2e-6)
"""Relative and absolute error."""


@dataclass(frozen=True)
class Golden:
    """The golden numbers of a method and the model that they belong to."""

    name: str
    config: Mapping[str, Any]
    data: Mapping[str, Tensor]
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    precisions: tuple[torch.dtype, ...]
    """In which we compute; the nearer results count."""
    precision: torch.dtype = torch.float64

    def each(self) -> list[Golden]:
        """This golden in each precision."""

        def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
            return {name: x.to(dtype) if x.is_floating_point() else x for name, x in tensors.items()}

        return [
            replace(self, data=cast(self.data, p), before=cast(self.before, p), precision=p)
            for p in self.precisions
        ]

    def assert_same(
        self,
        ours: Callable[[Golden], Mapping[str, Tensor]],
        published: Mapping[str, Tensor],
        wider: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        """Compare our tensors with the published ones. Each must agree in at least one precision.

        Args:
            ours: computes our tensors by name, in the precision of its argument.
            published: tensors with the same names.
            wider: (relative, absolute) bounds of the names for which ``BOUND`` does not hold.
        """
        computed = [ours(golden) for golden in self.each()]
        assert all(numbers.keys() == published.keys() for numbers in computed)
        for name, expected in published.items():
            errors: list[str] = []
            relative, absolute = (wider or {}).get(name, BOUND)
            for numbers in computed:
                try:
                    torch.testing.assert_close(
                        numbers[name].double(), expected.double(), rtol=relative, atol=absolute
                    )
                except AssertionError as error:
                    errors.append(str(error))
            assert len(errors) < len(computed), "\n".join([name, *errors])

    def model(self, state: dict[str, Tensor]) -> Method:
        cls: Any = METHODS[self.name]
        settings = cls.published_config({ARGUMENT_NAMES.get(k, k): v for k, v in self.config.items()})
        if self.name == "avca":  # hard-coded in the published code, not an argument
            sizes = {x: self.config[f"transformer_{x}"] for x in ("heads", "dim_head", "mlp_dim")}
            settings = settings.model_copy(update=sizes)
        spec = Spec(self.config["input_size_audio"], self.config["input_size_video"], 300, 0.96, 0.64)
        model: Method = cls(settings, spec).to(self.precision)
        model.load_state_dict(cls.published_state(state))
        return model

    def classes(self) -> Classes:
        return Classes(self.data["class_text"])

    def batch(self, prefix: str, *, seconds: bool) -> Batch:
        """A stored batch. Sequences are stored unscaled; means need no scaling."""
        d = self.data
        label = d[f"{prefix}label"]
        kwargs: dict[str, Any] = {"label": label, "text": d["class_text"][label]}
        audio, video = d[f"{prefix}audio"], d[f"{prefix}video"]
        if f"{prefix}negative_label" in d:
            text = d["class_text"][d[f"{prefix}negative_label"]]
            kwargs["negative"] = Batch(d[f"{prefix}negative_audio"], d[f"{prefix}negative_video"], text=text)
        if audio.ndim == 3:
            audio, video = audio / 255, functional.normalize(video, dim=1)
            for x, features in (("audio", audio), ("video", video)):
                steps = torch.arange(features.shape[1]).expand(features.shape[:2])
                kwargs[f"{x}_mask"] = steps < d[f"{prefix}{x}_len"][:, None]
                kwargs[f"{x}_times"] = steps * (self.config[f"{x}_seconds_per_step"] if seconds else 1.0)
        return Batch(audio, video, **kwargs)


CHAOTIC = {"tcaf"}
"""Methods that amplify rounding. A relative change of the weights by 1e-7 (float32) changes losses of later
steps by up to 5e-4 (relative), running variances by 4e-4, and up to 1 % of the elements of a weight by more
than 1e-4."""


def arrays(path: Path) -> dict[str, Tensor]:
    with np.load(path) as stored:
        tensors = {name: torch.from_numpy(np.asarray(stored[name])) for name in stored.files}
    return {name: x.double() if x.is_floating_point() else x for name, x in tensors.items()}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(name: str) -> Golden:
    folder = GOLDEN / name
    config = json.loads((folder / "config.json").read_text())
    data, before, after = (arrays(folder / f"{x}.npz") for x in ("data", "weights_before", "weights_after"))
    if (
        folder / "float64.npz"
    ).is_file():  # the same numbers and the weights after training, computed in float64
        data |= arrays(folder / "float64.npz")
        return Golden(
            name, config, data, before, arrays(folder / "weights_after_float64.npz"), (torch.float64,)
        )
    return Golden(name, config, data, before, after, (torch.float64, torch.float32))


@pytest.fixture(params=METHODS)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load(request.param)


@pytest.mark.parametrize(("weights", "prefix"), [("before", ""), ("after", "after_train_")])
def test_embeddings_equal_the_published_ones(golden: Golden, weights: str, prefix: str) -> None:
    names = {**OUTPUTS[golden.name], "classes": CLASSES[golden.name]}

    @torch.no_grad()
    def ours(golden: Golden) -> dict[str, Tensor]:
        model = golden.model(getattr(golden, weights)).eval()
        embeddings = model.embed(golden.batch("eval_", seconds=False))
        gate = {} if embeddings.gate is None else {"gate": embeddings.gate}
        return {**embeddings.outputs, **gate, "classes": model.embed_classes(golden.data["class_text"])}

    published = {our_name: golden.data[prefix + name] for our_name, name in names.items()}
    if golden.name == "cjme":
        published["gate"] = golden.data[f"{prefix}embed_attention_hard"].squeeze(-1)
    golden.assert_same(
        ours, published, {"joint": TWICE} if (golden.name, weights) == ("tcaf", "after") else None
    )


def test_float32_embeddings_are_the_published_ones_up_to_the_order_of_sums(golden: Golden) -> None:
    single = replace(golden, precisions=(torch.float32,)).each()[0]
    model = single.model(single.before).eval()
    with torch.no_grad():
        embeddings = model.embed(single.batch("eval_", seconds=False))

    for output, name in OUTPUTS[golden.name].items():
        assert embeddings.outputs[output].dtype == torch.float32
        torch.testing.assert_close(embeddings.outputs[output], single.data[name], rtol=1e-4, atol=1e-5)


def test_avca_also_embeds_the_audio_as_published() -> None:
    @torch.no_grad()
    def ours(golden: Golden) -> dict[str, Tensor]:
        model = golden.model(golden.before).eval()
        assert isinstance(model, Avca)
        return {"theta_a": model.sample_embeddings(golden.batch("eval_", seconds=False))[0]}

    golden = load("avca")
    published = {"theta_a": golden.data["embed_theta_a"]}
    golden.assert_same(ours, published, {"theta_a": TWICE})  # float32 rounding reaches 1.84 times the bound


def test_cjme_attention_equals_the_published_one() -> None:
    @torch.no_grad()
    def ours(golden: Golden) -> dict[str, Tensor]:
        model = golden.model(golden.before).eval()
        assert isinstance(model, Cjme)
        return {"alpha": model.modality_attention(golden.batch("eval_", seconds=False))}

    golden = load("cjme")
    golden.assert_same(ours, {"alpha": golden.data["embed_attention"].squeeze(-1)})


def test_each_tcaf_loss_equals_the_published_one() -> None:
    @torch.no_grad()
    def ours(golden: Golden) -> Mapping[str, Tensor]:
        model = golden.model(golden.before).eval()
        batch = golden.batch("eval_", seconds=True)
        return {**model.loss(batch, golden.classes()), "theta_o": model.embed(batch).outputs["joint"]}

    golden = load("tcaf")
    names = {
        "total": "loss_total",
        "regression": "loss_reg",
        "reconstruction": "loss_cmd_rec",
        "theta_o": "theta_o",
    }
    names["classification"] = "cross_entropy"
    golden.assert_same(
        ours, {name: golden.data[f"forward_{stored}"].squeeze() for name, stored in names.items()}
    )


@cache
def train(name: str, precision: torch.dtype) -> tuple[Method, Tensor]:
    """The model after the stored steps, and the losses before each step, ``[steps, losses]``."""
    golden = next(g for g in load(name).each() if g.precision == precision)
    model = golden.model(golden.before).train()
    optimizer = model.optimizer()
    parts = (
        ["total", "regression", "reconstruction", "classification"] if golden.name == "tcaf" else ["total"]
    )
    losses = []
    for step in range(golden.config["steps"]):
        terms = model.loss(golden.batch(f"train{step}_", seconds=True), golden.classes())
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        model.after_step(golden.batch(f"train{step}_", seconds=False))
        losses.append(torch.stack([terms[part].detach() for part in parts]))
    return model, torch.stack(losses)


def undetermined(model: Method) -> set[str]:
    """Tensors whose values after training are rounding noise in every implementation.

    A shift that the next BatchNorm removes has gradient zero in exact arithmetic. Adam turns the remaining
    rounding error into steps of full size. This holds for the bias of every Linear before a BatchNorm, for
    the last bias of a residual stream that feeds such a Linear, and for the running mean of that BatchNorm.
    """
    names = set()
    for prefix, block in model.named_modules():
        if not isinstance(block, nn.Sequential):
            continue
        layers = list(block.named_children())
        for (name, layer), (following, norm) in pairwise(layers):
            if isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
                names |= {f"{prefix}.{name}.bias", f"{prefix}.{following}.running_mean"}
    depth = getattr(model.config, "depth", 0)
    return names | ({f"layers.{depth - 1}.feed_forward.3.bias"} if depth else set())


def test_training_losses_equal_the_published_ones(golden: Golden) -> None:
    def ours(golden: Golden) -> dict[str, Tensor]:
        losses = train(golden.name, golden.precision)[1]
        return {"first": losses[0], "all": losses}

    stored = golden.data["train_losses_total_reg_rec_ce" if golden.name == "tcaf" else "train_loss_total"]
    stored = stored.reshape(golden.config["steps"], -1)
    several_steps = {"all": (1e-3 if golden.name in CHAOTIC else 5e-5, 5e-6)}
    golden.assert_same(ours, {"first": stored[0], "all": stored}, several_steps)


def test_five_training_steps_give_the_published_weights_and_running_statistics(golden: Golden) -> None:
    """Each tensor agrees in at least one precision."""
    stored = METHODS[golden.name].published_state(golden.after)  # type: ignore[attr-defined]
    wrong = [set(wrong_tensors(golden, train(g.name, g.precision)[0], stored)) for g in golden.each()]
    assert not set.intersection(*wrong)


def wrong_tensors(golden: Golden, model: Method, stored: Mapping[str, Tensor]) -> Iterator[str]:
    """Tensors of a trained model outside the bounds."""
    ours = model.state_dict()
    noise, full_steps = undetermined(model), 2 * golden.config["lr"] * golden.config["steps"]
    assert ours.keys() == stored.keys()
    assert noise <= ours.keys()
    for name, published in stored.items():
        off = (ours[name].double() - published.double()).abs()
        scale = 1 + published.double().abs()
        if name.endswith("num_batches_tracked"):
            fine = torch.equal(ours[name], published)
        elif name in noise:
            fine = bool((off <= 1.5 * full_steps * scale).all())
        else:
            # elements whose gradient is rounding noise may differ by what Adam can change
            chaotic = golden.name in CHAOTIC
            tolerance = 1e-3 if chaotic and name.endswith("running_var") else 1e-4
            few = (off <= tolerance * scale).double().mean() >= (0.98 if chaotic else 0.999)
            fine = bool(few and (off <= full_steps * scale).all())
        if not fine:
            yield name


def test_a_leftover_or_missing_tensor_is_named(golden: Golden) -> None:
    state = dict(golden.before)
    name = next(x for x in state if x.endswith("4.weight"))
    del state[name]
    state["surplus.weight"] = torch.zeros(1)

    with pytest.raises(ValueError, match=rf"{name}.*surplus\.weight"):
        golden.model(state)


def test_tcaf_refuses_token_stages_that_differ() -> None:
    golden = load("tcaf")
    name = "position_encoder_block.fourier_embeddings.bias"
    state = {**golden.before, name: golden.before[name] + 1}

    with pytest.raises(ValueError, match="copies of the token stage differ"):
        golden.model(state)


@pytest.mark.parametrize("switch", ["rec_loss", "embedding_use_bn"])
def test_published_variants_that_we_do_not_have_are_refused(switch: str) -> None:
    cls: Any = Tcaf if switch == "rec_loss" else Cjme

    with pytest.raises(ValueError, match=switch):
        cls.published_config({switch: False})
