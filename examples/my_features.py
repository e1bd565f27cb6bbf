"""A dataset of your own from arrays, then two methods on it.

    python examples/my_features.py      # half a minute

It makes data/birds-native.h5 and datasets/birds.yaml (in a checkout datasets/own/birds.yaml) in the working
folder, and prints a row per method.
Features are a map of the class embeddings plus noise, so unseen classes can be recognised: HM is above 70.
Afterwards the command line knows the dataset: python run_benchmark.py --methods tcaf --datasets birds
"""

import numpy as np

import benchmark as gz

rng = np.random.default_rng(0)
names = [f"bird {i}" for i in range(20)]
embeddings = rng.normal(size=(20, 50))  # one row per class, in the order of the names
maps = {"audio": rng.normal(size=(50, 64)), "video": rng.normal(size=(50, 96))}

# What is yours: a class, a split and two feature sequences of any length for each clip.
classes_of = {"train": range(10), "val_seen": range(10), "val_unseen": range(10, 15)}
classes_of |= {"test_seen": range(15), "test_unseen": range(15, 20)}
clips = [(c, split) for split, classes in classes_of.items() for c in classes for _ in range(8)]


def sequence(modality: str, c: int) -> np.ndarray:
    steps = rng.integers(3, 9)
    return embeddings[c] @ maps[modality] + 8 * rng.normal(size=(steps, maps[modality].shape[1]))


if __name__ == "__main__":
    gz.datasets.from_arrays(
        "birds",
        audio=[sequence("audio", c) for c, _ in clips],
        video=[sequence("video", c) for c, _ in clips],
        labels=[names[c] for c, _ in clips],
        splits=[split for _, split in clips],
        class_names=names,
        class_embeddings=embeddings,
    )
    quick = {"train.epochs": 3, "train.batches_per_epoch": 20}
    print(gz.run("linear,eszsl", dataset="birds", seeds=2, settings=quick))
