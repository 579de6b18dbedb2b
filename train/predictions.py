"""The predictions file: what the head said of every expression, without any masks.

Scores and mask embeddings of *all* motion queries are kept, so that another sigma can be replayed
and scored without the head. Layout (HDF5):

    /                              format_version, fingerprint, checkpoint, rule, sigma, training
    /videos/<id>/<expression id>   scores (N_m,) f32, mask_embeds (N_m, C) f32

with ids escaped as in the cache and kept as they are in the attribute ``id``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from cache_schema.cli import InputError
from cache_schema.names import escape
from cache_schema.sink import new_hdf5

FORMAT_VERSION = 1
RULES = ("threshold", "top1")


class PredictionsWriter:
    """Writes a predictions file; the file appears under its name only when it is complete.

    Args:
        path: the file; a present one is replaced.
        fingerprint: hex fingerprint of the cache that was read.
        checkpoint: SHA-256 of the checkpoint file.
        rule, sigma: how queries are kept; see `train.replay.keep`.
        training: JSON-able facts about the training of the checkpoint.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        fingerprint: str,
        checkpoint: str,
        rule: str,
        sigma: float,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self._open = new_hdf5(self.path)
        self._file, self._sink = self._open.__enter__()
        self._file.attrs.update(
            format_version=FORMAT_VERSION,
            fingerprint=fingerprint,
            checkpoint=checkpoint,
            rule=rule,
            sigma=sigma,
            training=json.dumps(dict(training or {})),
        )

    def add(
        self, video_id: str, expression_id: str, scores: np.ndarray, mask_embeds: np.ndarray
    ) -> None:
        """Store one expression: scores (N_m,) after the sigmoid, mask embeddings (N_m, C).

        Raises:
            OSError: of the storage, which leaving the context turns into `InputError`.
        """
        video = self._file.require_group(f"videos/{escape(video_id)}")
        video.attrs["id"] = video_id
        group = video.create_group(escape(expression_id))
        group.attrs["id"] = expression_id
        group["scores"] = np.asarray(scores, np.float32)
        group["mask_embeds"] = np.asarray(mask_embeds, np.float32)
        self._sink.check()

    def __enter__(self) -> "PredictionsWriter":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)


class Predictions:
    """Reads a predictions file.

    Attributes:
        fingerprint, checkpoint, rule, sigma, training: as given to the writer; older files have
            nothing of the training.

    Raises:
        InputError: no such file, or not one of ours.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"{path}: there is no such predictions file")
        try:
            self._file = h5py.File(self.path, "r")
            attrs = dict(self._file.attrs)
            version = int(attrs["format_version"])
            self.fingerprint, self.checkpoint = str(attrs["fingerprint"]), str(attrs["checkpoint"])
            self.rule, self.sigma = str(attrs["rule"]), float(attrs["sigma"])
            self.training: dict[str, Any] = dict(json.loads(attrs.get("training", "{}")))
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path} is not a predictions file ({error})") from None
        if version != FORMAT_VERSION or self.rule not in RULES:
            raise InputError(
                f"{path} has format version {version} and rule {self.rule!r}; this program reads "
                f"version {FORMAT_VERSION} and {' or '.join(RULES)}: predict again"
            )

    def get(self, video_id: str, expression_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Scores (N_m,) f32 and mask embeddings (N_m, C) f32 of one expression.

        Raises:
            InputError: it is not in the file, or not of these shapes.
        """
        name = f"videos/{escape(video_id)}/{escape(expression_id)}"
        try:
            scores, embeds = (
                np.asarray(self._dataset(f"{name}/{part}"), np.float32)
                for part in ("scores", "mask_embeds")
            )
        except (KeyError, OSError, ValueError) as error:
            raise InputError(
                f"{self.path} has no usable prediction for expression {expression_id} of video "
                f"{video_id} ({error}); predict again"
            ) from None
        if scores.ndim != 1 or embeds.ndim != 2 or len(scores) != len(embeds) or not len(scores):
            raise InputError(
                f"{self.path}: expression {expression_id} of video {video_id} has scores "
                f"{scores.shape} and embeddings {embeds.shape}, not (N_m,) and (N_m, C)"
            )
        return scores, embeds

    def _dataset(self, name: str) -> np.ndarray:
        node: h5py.Group | h5py.Dataset = self._file
        for part in name.split("/"):  # a file from outside must not point out of itself
            if not isinstance(node.get(part, getlink=True), h5py.HardLink):
                raise KeyError(f"{name} is a link")
            node = node[part]
        if not isinstance(node, h5py.Dataset):
            raise KeyError(f"{name} is no dataset")
        return node[()]

    def close(self) -> None:
        """Close the file."""
        self._file.close()
