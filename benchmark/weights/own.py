"""Reads trained weights that this benchmark wrote, with their record.

They are in a folder with ``config.json`` and one of ``model.safetensors`` (exported), ``best.pt`` and
``final.pt``. ``published.py`` reads those of the published code. ``protocol.stages.evaluate_weights`` tests
both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from benchmark.errors import UsageError, near, validation_message
from benchmark.method import Method, MethodConfig, Spec
from benchmark.settings.resolve import Settings
from benchmark.settings.schema import LengthConfig
from benchmark.system.files import raise_outside, raise_unreadable, replacing
from benchmark.system.reading import read_json
from benchmark.untrusted.tensors import is_plain, load_tensors, state_fault

CONFIG = "config.json"
OWN_WEIGHTS = ("model.safetensors", "best.pt", "final.pt")
MAX_EPOCHS = 1_000_000

Origin = Literal["published", "ours"]


@dataclass(frozen=True)
class Weights:
    """Trained weights of one stage, with all that is needed to use them.

    ``read_own`` and ``published.read_pair`` make them for the command ``evaluate``.
    """

    file: Path
    record: Path
    """File beside them that describes them: ``args.pkl`` or ``config.json``."""
    origin: Origin
    method: type[Method]
    config: MethodConfig
    lengths: LengthConfig
    state: Mapping[str, Tensor]
    """State dict with the parameter names of our methods."""
    epochs: int
    """Epochs trained."""
    seed: int
    dataset: str
    """As the run names it: a folder of the published code, or a dataset config; empty if it names none."""
    features: str
    dims: Mapping[str, int]
    """Feature sizes that the run recorded: ``audio``, ``video``."""
    training: Mapping[str, Any]
    """Settings of the section ``train`` that the run recorded."""
    recorded: Settings | None = None
    """All settings of the job; None for published weights."""
    data_digest: str = ""
    """Digest of the data that our weights were trained on."""

    def check(self, spec: Spec) -> None:
        """Check that the weights fit the method on features of these sizes; the model takes no memory.

        Raises:
            UsageError: tensors are missing, unknown, of another dtype or shape, or hold impossible values.
        """
        try:
            with torch.device("meta"):
                skeleton = self.method(self.config, spec).state_dict()
        except (RuntimeError, ValueError, TypeError, OverflowError) as error:
            raise UsageError(
                f"{self.record}: no {self.method.title} can be built with these sizes ({error!s:.150})"
            ) from None
        if fault := state_fault(self.state, skeleton):
            raise UsageError(f"{self.file}: does not fit {self.method.title} on these features: {fault}")


def digest_of(*weights: Weights) -> str:
    """16 hexadecimal digits of the content of weights files and of the files that describe them."""
    sha = hashlib.sha256()
    for each in weights:
        for path in (each.file, each.record):
            try:
                with open(path, "rb") as file:
                    sha.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise_outside(error, path)
                raise
    return sha.hexdigest()[:16]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of the published code without running code: ``epoch``, ``model`` (a state dict),
    more.

    Raises:
        UsageError: it is missing or damaged, has objects that no checkpoint needs, or lacks one of the two.
    """
    loaded = load_tensors(path)
    content: dict[str, Any] = loaded if isinstance(loaded, dict) else {}
    model, epoch = content.get("model"), content.get("epoch")
    if not isinstance(model, dict) or not all(isinstance(n, str) and is_plain(x) for n, x in model.items()):
        raise UsageError(f"{path}: no entry 'model' with a plain state dict")
    if type(epoch) is not int or not 0 <= epoch <= MAX_EPOCHS:
        raise UsageError(f"{path}: holds no number of epochs under the key 'epoch'")
    return content


class _Record(BaseModel):
    """The fields of ``config.json`` that are needed to use our weights."""

    model_config = ConfigDict(extra="ignore")

    method: str
    settings: dict[str, dict[str, Any]]
    stage: Literal[1, 2]
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)]
    epochs: Annotated[StrictInt, Field(ge=1, le=MAX_EPOCHS)]
    dataset: str
    features: str
    digest: str


def read_own(folder: Path, stage: int, methods: Mapping[str, type[Method]]) -> Weights:
    """Read weights that a job of this benchmark wrote.

    Raises:
        UsageError: the record or the weights are missing, damaged or incomplete, or of another stage or an
            unknown method.
        Unavailable: they cannot be read for a reason that may pass.
    """
    path = folder / CONFIG
    try:
        record = _Record.model_validate(read_json(path))
    except ValidationError as error:
        raise UsageError(validation_message(error, f"{path}: not the record of a trained job")) from None
    except (OSError, ValueError) as error:
        raise_outside(error, path)
        raise UsageError(f"{path}: not the record of a trained job ({error})") from None
    if record.stage != stage:
        raise UsageError(
            f"--stage-{'ab'[stage - 1]} {folder}: holds stage {record.stage}; swap the two folders"
        )
    if record.method not in methods:
        raise UsageError(
            f"{path}: unknown method {record.method!r}: {near(record.method, methods)} (a plug-in needs "
            "--plugin)"
        )
    file = next((folder / name for name in OWN_WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise UsageError(
            f"{folder}: no weights in it (one of {', '.join(OWN_WEIGHTS)}); they were moved or removed"
        )
    recorded = _recorded_settings(path, methods[record.method], record.settings)
    return Weights(
        file=file,
        record=path,
        origin="ours",
        method=methods[record.method],
        config=recorded.config,
        lengths=recorded.lengths,
        state=_own_state(file),
        epochs=record.epochs,
        seed=record.seed,
        dataset=record.dataset,
        features=record.features,
        dims={},
        training=recorded.train.model_dump(),
        recorded=recorded,
        data_digest=record.digest,
    )


def _own_state(file: Path) -> Mapping[str, Tensor]:
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (OSError, MemoryError, SafetensorError) as error:
            raise_outside(error, file)
            raise_unreadable(file)
            raise UsageError(
                f"{file}: cannot be read, truncated or damaged ({error!s:.150}); export it again"
            ) from None
    state: Mapping[str, Tensor] = load_checkpoint(file)["model"]
    return state


def _recorded_settings(path: Path, method: type[Method], record: Mapping[str, Mapping[str, Any]]) -> Settings:
    """The settings that a job recorded (``Settings.as_dict``)."""
    missing = [name for name in (method.name, "train", "lengths", "protocol") if name not in record]
    if missing:
        raise UsageError(f"{path}: the settings lack {', '.join(missing)}")
    return Settings.validated(method, record, str(path), published=False)


def write_weights_record(
    folder: Path, identity: Mapping[str, Any], key: str, result: Mapping[str, Any]
) -> None:
    """Write the record that ``read_own`` reads beside a job's weights: identity, epochs, results.

    Args:
        folder: the job's folder.
        identity: the job's identity.
        key: the job's key.
        result: the result of stage 1 (with ``best_epoch``) or of stage 2 (with ``epochs``).
    """
    epochs = result["best_epoch"] + 1 if "best_epoch" in result else result["epochs"]
    record = {**identity, "job_key": key, "epochs": epochs, "result": result}
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
