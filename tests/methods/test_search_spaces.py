"""Published settings and search ranges of every method: complete, valid, and the numbers of the published
code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from support.checkout import PROJECT

from benchmark.method import Method
from benchmark.settings.schema import LengthConfig
from benchmark.weights.published import TRAINING, _Arguments
from methods.attention_fusion import AttentionFusion
from methods.avca import Avca
from methods.avgzslnet import AvgzslNet
from methods.cjme import Cjme
from methods.perceiver import Perceiver
from methods.tcaf import Tcaf

FOLDER = PROJECT / "search_spaces"
METHODS: dict[str, type[Method]] = {
    "tcaf": Tcaf,
    "attention_fusion": AttentionFusion,
    "perceiver": Perceiver,
    "cjme": Cjme,
    "avgzslnet": AvgzslNet,
    "avca": Avca,
}
DATASETS, FEATURES = ("vggsound", "ucf", "activitynet"), ("cls", "main")
PLACES = [(d, f) for d in DATASETS for f in FEATURES]


def space_of(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return loaded


def column(name: str, field: str) -> list[Any]:
    """A published setting over VGGSound, UCF, ActivityNet on cls, then on main."""
    published = space_of(name)["published"]
    return [published[d][f]["config"][field] for f in FEATURES for d in DATASETS]


@pytest.mark.parametrize("name", METHODS)
def test_published_settings_cover_all_data_and_are_valid(name: str) -> None:
    published = space_of(name)["published"]

    assert space_of(name)["method"] == name
    for dataset, features in PLACES:
        settings = published[dataset][features]
        METHODS[name].Config(**settings["config"])
        numbers = [v for v in settings["config"].values() if not isinstance(v, bool)]
        assert all(isinstance(v, (int, float)) for v in numbers)  # YAML 1.1 reads 1e-5 as text
        assert settings["train"]["epochs"] == 50
        assert ("lengths" in settings) == (METHODS[name].inputs == "sequence")


@pytest.mark.parametrize("name", METHODS)
def test_searched_fields_exist_and_hold_their_published_values_and_defaults(name: str) -> None:
    search = space_of(name)["search"]
    defaults = METHODS[name].Config()

    assert 5 <= len(search) <= 8
    for field, space in search.items():
        values = [getattr(defaults, field)]
        values += [
            v["config"][field]
            for d in space_of(name)["published"].values()
            for v in d.values()
            if field in v["config"]
        ]
        for value in values:
            if space["type"] == "categorical":
                assert value in space["choices"], field
                continue
            assert space["low"] <= value <= space["high"], field
            if "step" in space:
                steps = (value - space["low"]) / space["step"]
                assert math.isclose(steps, round(steps), abs_tol=1e-9), field


@pytest.mark.parametrize("name", METHODS)
def test_class_defaults_are_the_published_settings_of_ucf(name: str) -> None:
    published = space_of(name)["published"]["ucf"]["cls"]["config"]

    assert METHODS[name].Config(**published) == METHODS[name].Config()


@pytest.mark.parametrize("name", ["tcaf", "attention_fusion", "perceiver"])
def test_sequence_methods_train_as_tcaf_was_published(name: str) -> None:
    published = space_of(name)["published"]

    assert column(name, "lr") == [6e-5, 7e-5, 7e-5, 7e-5, 5e-5, 7e-5]
    assert column(name, "plateau") == [False, True, True, False, False, True]
    assert column(name, "encoder_hidden") == [512, 512, 512, 128, 256, 128]
    assert column(name, "encoder_dropout") == [0.2, 0.3, 0.3, 0.2, 0.4, 0.2]
    assert column(name, "decoder_hidden") == [512] * 6
    assert column(name, "decoder_dropout") == [0.2, 0.1, 0.1, 0.2, 0.2, 0.1]
    assert column(name, "word_dropout") == [0.1, 0.1, 0.1, 0.2, 0.1, 0.1]
    assert column(name, "token_dropout") == [0.1, 0.2, 0.2, 0.2, 0.2, 0.2]
    assert column(name, "weight_decay") == [1e-5] * 6
    for dataset, features in PLACES:
        settings = published[dataset][features]
        fixed = dataset == "activitynet"
        assert settings["lengths"] == (
            {"train": 60, "test": 300} if fixed else {"train": "max", "test": "max"}
        )
        assert settings["train"] == {"epochs": 50, "batches_per_epoch": 300, "batch_size": 64}


def test_tcaf_layers_are_the_published_ones() -> None:
    assert column("tcaf", "depth") == [8, 6, 6, 8, 5, 8]
    assert column("tcaf", "heads") == [8, 8, 8, 6, 8, 3]
    assert column("tcaf", "dim_head") == [64, 64, 64, 128, 64, 128]
    assert column("tcaf", "dropout") == column("perceiver", "dropout") == [0.5, 0.3, 0.4, 0.5, 0.3, 0.3]
    assert column("tcaf", "mlp_dim") == [128] * 6


@pytest.mark.parametrize("name", ["avca", "cjme", "avgzslnet"])
def test_mean_methods_train_as_published(name: str) -> None:
    published = space_of(name)["published"]

    assert column(name, "lr") == [1e-3] * 6
    assert column(name, "plateau") == [True] * 6
    assert column(name, "weight_decay") == [1e-5 if name == "avca" else 0.0] * 6
    for dataset, features in PLACES:
        small = (name, dataset, features) == ("avca", "vggsound", "main")
        train = published[dataset][features]["train"]
        assert train == {"epochs": 50, "batches_per_epoch": 500, "batch_size": 64 if small else 256}


def test_avca_rates_and_momentum_are_the_published_ones() -> None:
    assert column("avca", "encoder_dropout") == [0.0, 0.2, 0.2, 0.0, 0.2, 0.2]
    assert column("avca", "projection_dropout") == [0.0, 0.3, 0.2, 0.0, 0.3, 0.2]
    assert column("avca", "decoder_dropout") == [0.0, 0.5, 0.1, 0.1, 0.5, 0.1]
    assert column("avca", "momentum") == [0.99, 0.99, 0.99, 0.1, 0.1, 0.99]


def test_cjme_and_avgzslnet_rates_are_the_published_ones() -> None:
    assert column("cjme", "dropout") == [0.0, 0.2, 0.2, 0.0, 0.2, 0.2]
    assert column("avgzslnet", "dropout") == [0.8] * 6
    assert column("avgzslnet", "decoder_dropout") == [0.5] * 6


COMMON = {"epochs": 50, "retrain_all": False, "distance_fn": "L2Loss", "reg_loss": True}
TCAF_NAMES = (
    "lr", "lr_scheduler", "transformer_depth", "transformer_heads", "transformer_dim_head",
    "transformer_dropout",
    "embeddings_hidden_size", "embedding_dropout", "decoder_hidden_size", "decoder_dropout",
    "additional_dropout",
    "transformer_embedding_dropout",
)  # fmt: skip
TCAF_VALUES = {
    ("vggsound", "cls"): (6e-5, False, 8, 8, 64, 0.5, 512, 0.2, 512, 0.2, 0.1, 0.1),
    ("ucf", "cls"): (7e-5, True, 6, 8, 64, 0.3, 512, 0.3, 512, 0.1, 0.1, 0.2),
    ("activitynet", "cls"): (7e-5, True, 6, 8, 64, 0.4, 512, 0.3, 512, 0.1, 0.1, 0.2),
    ("vggsound", "main"): (7e-5, False, 8, 6, 128, 0.5, 128, 0.2, 512, 0.2, 0.2, 0.2),
    ("ucf", "main"): (5e-5, False, 5, 8, 64, 0.3, 256, 0.4, 512, 0.2, 0.1, 0.2),
    ("activitynet", "main"): (7e-5, True, 8, 3, 128, 0.3, 128, 0.2, 512, 0.1, 0.1, 0.2),
}
"""Arguments of the best runs of TCAF-GZSL; its word projection has ``additional_dropout``."""
AVCA_VALUES = {
    ("vggsound", "cls"): (0.0, 0.0, 0.0, 0.99, 256),
    ("ucf", "cls"): (0.2, 0.3, 0.5, 0.99, 256),
    ("activitynet", "cls"): (0.2, 0.2, 0.1, 0.99, 256),
    ("vggsound", "main"): (0.0, 0.0, 0.1, 0.1, 64),
    ("ucf", "main"): (0.2, 0.3, 0.5, 0.1, 256),
    ("activitynet", "main"): (0.2, 0.2, 0.1, 0.99, 256),
}
"""``embedding_dropout`` (r_enc), ``decoder_dropout`` (r_proj), ``additional_dropout`` (r_dec), momentum and
batch size of AVCA-GZSL's run scripts. There ``decoder_dropout`` is that of the projections,
``additional_dropout`` that of the decoders."""


def published_arguments(name: str, dataset: str, features: str) -> dict[str, Any]:
    """What the published code stores beside a model that it trained with its own settings for these data."""
    place = (dataset, features)
    if name == "tcaf":
        fixed = {
            "transformer_mlp_dim": 128,
            "use_self_attention": False,
            "use_cross_attention": True,
            "rec_loss": True,
        }
        args = (
            COMMON
            | fixed
            | {"n_batches": 300, "bs": 64}
            | dict(zip(TCAF_NAMES, TCAF_VALUES[place], strict=True))
        )
        kind = "fixed" if dataset == "activitynet" else "max"
        lengths = {
            "batch_seqlen_train_maxlen": 60,
            "batch_seqlen_test_maxlen": 300,
        }  # stored whatever the kind
        cuts = {"batch_seqlen_train_trim": "random", "batch_seqlen_test_trim": "center"}
        return args | lengths | cuts | {"batch_seqlen_train": kind, "batch_seqlen_test": kind}
    args = COMMON | {"lr": 1e-3, "lr_scheduler": True, "n_batches": 500, "bs": 256}
    if name == "avca":
        encoder, projection, decoder, momentum, size = AVCA_VALUES[place]
        args |= {"embedding_dropout": encoder, "decoder_dropout": projection, "additional_dropout": decoder}
        args |= {"momentum": momentum, "bs": size, "embeddings_hidden_size": 512, "decoder_hidden_size": 512}
        triplets = {
            "additional_triplets_loss": True,
            "first_additional_triplet": 1,
            "second_additional_triplet": 1,
        }
        return args | triplets | {"AVCA": True, "depth_transformer": 1}
    args |= {"embeddings_hidden_size": 1024, "embedding_use_bn": True, "margin": 1.0}
    if name == "cjme":
        return args | {"cjme": True, "dropout_baselines": 0.0 if dataset == "vggsound" else 0.2}
    decoder_side = {
        "decoder_hidden_size": 64,
        "decoder_dropout": 0.5,
        "decoder_use_bn": True,
        "normalize_decoder_outputs": True,
    }
    return args | decoder_side | {"embedding_dropout": 0.8}


@pytest.mark.parametrize(("dataset", "features"), PLACES)
@pytest.mark.parametrize("name", ["tcaf", "avca", "cjme", "avgzslnet"])
def test_settings_read_from_published_arguments_are_those_of_the_search_space(
    name: str, dataset: str, features: str
) -> None:
    args, published = (
        published_arguments(name, dataset, features),
        space_of(name)["published"][dataset][features],
    )
    method: Any = METHODS[name]

    assert method.published_config(args) == method.Config(**published["config"])
    assert {ours: args[stored] for ours, stored in TRAINING.items()} == published["train"]
    if "lengths" in published:
        assert _Arguments.model_validate(args).lengths() == LengthConfig(**published["lengths"])


def test_published_avca_has_its_plateau_whatever_its_scheduler_argument_says() -> None:
    args = published_arguments("avca", "ucf", "cls") | {"lr_scheduler": False}

    assert Avca.published_config(args).plateau
    assert not Cjme.published_config(args).plateau
