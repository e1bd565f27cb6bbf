"""Sizes and lengths of UCF's features, for synthetic data. It imports nothing, so all tools can use it."""

from __future__ import annotations

LIKE_UCF = {
    "train_classes": 30,
    "val_unseen_classes": 12,
    "test_unseen_classes": 6,
    "audio_dim": 128,
    "video_dim": 4096,
    "text_dim": 300,
    "audio_steps": (3, 11),
    "video_steps": (5, 17),
    "order_signal": 0.0,
}
LIKE_UCF_MAIN = {
    **LIKE_UCF,
    "audio_dim": 512,
    "video_dim": 512,
    "audio_steps": (3, 10),
    "video_steps": (3, 10),
}
LIKE_UCF_CLIP_CLAP = {
    **LIKE_UCF,
    "audio_dim": 1024,
    "video_dim": 512,
    "text_dim": 1536,
    "audio_steps": (1, 1),
    "video_steps": (1, 1),
}
SIZES = {"cls": LIKE_UCF, "main": LIKE_UCF_MAIN, "clip_clap": LIKE_UCF_CLIP_CLAP}
"""The settings of synthetic data by feature set."""
