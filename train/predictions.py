"""The predictions file: what the head said of every expression, without any masks.

Scores and mask embeddings of *all* motion queries are kept, so that another sigma can be replayed
and scored without the head. Layout (HDF5):

    /                              format_version, fingerprint, checkpoint, rule, sigma, training,
                                   made_from
    /videos/<id>/<expression id>   scores (N_m,) f32, mask_embeds (N_m, C) f32

where C is C_mask, or C_mask + N_v (see `train.heads.base.HeadOutput`). A head that draws no masks
has, in place of mask_embeds, sources (N_m,) int64: the video query that each motion query is. Ids
are escaped as in the cache and kept as they are in the attribute ``id``.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache_schema.host import files, system
from cache_schema.host.cli import InputError
from cache_schema.names import escape
from cache_schema.nodes import attribute, child, values
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
        made_from: digest of all that the numbers depend on; empty if they are not to be reused.

    Raises:
        InputError: the file cannot be written.
        ValueError: no such rule.
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
        made_from: str = "",
    ) -> None:
        if rule not in RULES:
            raise ValueError(f"rule is {rule!r}; choose one of {', '.join(RULES)}")
        self.path = Path(path)
        self._open = new_hdf5(self.path)
        self._file, self._sink = self._open.__enter__()
        self._file.attrs.update(
            format_version=FORMAT_VERSION,
            fingerprint=fingerprint,
            checkpoint=checkpoint,
            rule=rule,
            sigma=float(sigma),
            training=json.dumps(dict(training or {})),
            made_from=made_from,
        )

    def add(
        self, video_id: str, expression_id: str, scores: np.ndarray, queries: np.ndarray
    ) -> None:
        """Store one expression.

        Args:
            scores: (N_m,) after the sigmoid.
            queries: mask embeddings (N_m, C), or sources (N_m,).

        Raises:
            OSError: of the storage, which leaving the context turns into `InputError`.
            ValueError: what no reader would take: no numbers, or not as many of both.
        """
        scores, queries = np.asarray(scores, np.float32), np.asarray(queries)
        sound = np.isfinite(scores).all() and np.isfinite(queries).all()
        if not sound or scores.shape != queries.shape[:1]:
            raise ValueError(
                f"{video_id!r}, {expression_id!r}: scores {scores.shape} and queries "
                f"{queries.shape} have to be finite, and as many"
            )
        video = self._file.require_group(f"videos/{escape(video_id)}")
        video.attrs["id"] = video_id
        group = video.create_group(escape(expression_id))
        group.attrs["id"] = expression_id
        group["scores"] = scores
        if queries.ndim == 1:
            group["sources"] = np.asarray(queries, np.int64)
        else:
            group["mask_embeds"] = np.asarray(queries, np.float32)
        self._sink.check()

    def __enter__(self) -> "PredictionsWriter":
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)


class Predictions:
    """Reads a predictions file.

    Attributes:
        fingerprint, checkpoint, rule, sigma, training, made_from: as given to the writer; the last
            two are empty in older files.

    Raises:
        InputError: no such file, or not one of ours.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            # A finished file never changes: it needs no lock, which some network disks lack.
            self._file = h5py.File(self.path, "r", locking=False)
            version = attribute(self._file, "format_version", int)
            self.fingerprint = attribute(self._file, "fingerprint", str)
            self.checkpoint = attribute(self._file, "checkpoint", str)
            self.rule = attribute(self._file, "rule", str)
            self.sigma = attribute(self._file, "sigma", float)
            told = "training" in self._file.attrs
            text = attribute(self._file, "training", str) if told else "{}"
            self.training: dict[str, Any] = dict(json.loads(text))
            made = "made_from" in self._file.attrs
            self.made_from = attribute(self._file, "made_from", str) if made else ""
        except (InputError, OSError, RuntimeError, ValueError, TypeError, RecursionError) as error:
            system.check(error, path)
            if getattr(error, "errno", None) in system.ABSENT:
                raise InputError(f"{path}: there is no such predictions file") from None
            raise InputError(f"{path} is not a predictions file ({error})") from None
        if not 0 <= self.sigma <= 1:
            raise InputError(f"{path}: its sigma is {self.sigma}, and a score is from 0 to 1")
        if version != FORMAT_VERSION or self.rule not in RULES:
            raise InputError(
                f"{path} has format version {version} and rule {self.rule!r}; this program reads "
                f"version {FORMAT_VERSION} and {' or '.join(RULES)}: predict again"
            )

    def get(
        self, video_id: str, expression_id: str, sizes: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores (N_m,) f32, and mask embeddings (N_m, C) f32 or sources (N_m,) int64.

        Args:
            sizes: N_v and C_mask, as the cache has them; None takes any.

        Raises:
            InputError: it is not in the file, not of these shapes, or not finite.
        """
        try:
            group = child(self._file, "videos", h5py.Group)
            for name in (video_id, expression_id):
                group = child(group, escape(name), h5py.Group)
            scores = np.asarray(values(child(group, "scores", h5py.Dataset)), np.float32)
            selects = "sources" in group
            name, kind = ("sources", np.int64) if selects else ("mask_embeds", np.float32)
            queries = np.asarray(values(child(group, name, h5py.Dataset)), kind)
        except InputError as error:
            raise InputError(
                f"{self.path} has no usable prediction for expression {expression_id} of video "
                f"{video_id} ({error}); predict again"
            ) from None
        where = f"{self.path}: expression {expression_id} of video {video_id} has"
        shape = (len(scores), *queries.shape[1:]) if scores.ndim == 1 else None
        if queries.shape != shape or queries.ndim != 2 - selects or not len(scores):
            raise InputError(
                f"{where} scores {scores.shape} and {name} {queries.shape}, not (N_m,) and "
                f"{'(N_m,)' if selects else '(N_m, C)'}"
            )
        if sizes and selects and not 0 <= queries.min() <= queries.max() < sizes[0]:
            raise InputError(
                f"{where} video queries from {queries.min()} to {queries.max()}, the cache has "
                f"{sizes[0]}"
            )
        if sizes and not selects and queries.shape[1] not in (sizes[1], sum(sizes)):
            raise InputError(
                f"{where} embeddings of {queries.shape[1]} channels, the cache's mask features "
                f"have {sizes[1]}"
            )
        if not (np.isfinite(scores).all() and np.isfinite(queries).all()):
            raise InputError(
                f"{where} NaN or infinite values; look at the training, then predict again"
            )
        if scores.min() < 0 or scores.max() > 1:
            raise InputError(
                f"{where} scores from {scores.min():g} to {scores.max():g}; they have to be "
                "probabilities, from 0 to 1"
            )
        return scores, queries

    def at_sigma(self, sigma: float) -> "Predictions":
        """The same predictions, whose file says another sigma from now on."""
        if sigma == self.sigma:
            return self
        with files.replacing(self.path) as temporary:
            shutil.copyfile(self.path, temporary)
            with h5py.File(temporary, "r+") as file:
                file.attrs["sigma"] = float(sigma)
        self.close()
        return Predictions(self.path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
