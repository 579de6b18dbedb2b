"""Ref-DAVIS17: DAVIS 2017 at 480p with sentences of two annotators, in one of two layouts.

As ReferFormer prepares it: `<root>/meta_expressions/<split>/meta_expressions.json` and
`<root>/<split>/{JPEGImages,Annotations}/<video>/`. As it is downloaded:
`<root>/davis_text_annotations/*.txt` and, in `<root>/DAVIS` or in `<root>` itself,
`ImageSets/2017/<split>.txt`, `JPEGImages/480p/<video>/` and, for the masks,
`Annotations_unsupervised/480p/<video>/` or `Annotations/480p/<video>/`. Masks are palette PNGs; 255
is void.
"""

from pathlib import Path

from cache_schema.host.cli import InputError
from cache_schema.records import Facts
from extract.datasets.files import existing_folder, plain_name
from extract.datasets.frames import ImageFiles
from extract.datasets.meta_expressions import MetaExpressions, times_of
from extract.datasets.palette import PaletteDataset, object_id
from extract.datasets.records import SourceExpression, SourceVideo

#: Of text, in the order of annotators in expression ids and the benchmark's results; a line reads
#: ``sequence object "sentence"``. Two people described every object, each twice: from the first
#: frame alone and from the whole video.
FILES = (
    "Davis17_annot1.txt",
    "Davis17_annot1_full_video.txt",
    "Davis17_annot2.txt",
    "Davis17_annot2_full_video.txt",
)
#: Names of sequences that the files misspell.
MISSPELT = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}

#: Sequence -> (object id, sentence), by ascending object id.
Sentences = dict[str, list[tuple[str, str]]]
#: Sentences of an object: two annotators, each for the first frame and for the whole video.
ANNOTATORS = len(FILES)
#: The same split is "val" to DAVIS and "valid" to ReferFormer; both names are taken.
VALID = ("valid", "val")


class RefDAVIS(PaletteDataset):
    """Videos of a split.

    The expressions of a video with K objects have the ids "0" to "4K-1", in this order: that of
    object number k by annotator a is 4k + a. Void pixels are kept as the annotation "255", which no
    expression means.

    Args:
        root: folder of either layout; where both are there, the prepared one is read.
        split: train, or valid (val).
        sentences: False does without `davis_text_annotations`: videos then have no expressions.

    Raises:
        InputError: neither layout is there, a file of text is missing or malformed.
    """

    facts = Facts(one_object=True, protocol="davis", has_text=True)

    def __init__(self, root: str | Path, split: str | None, *, sentences: bool = True) -> None:
        if not plain_name(split):
            raise InputError(f"Ref-DAVIS needs the name of a split (train, valid), not {split!r}")
        self.root, self.split = existing_folder(Path(root), what="data root"), split
        names = VALID if split in VALID else (split,)
        self._files: list[Path] = []
        self._sentences: dict[str, list[tuple[str, str]]] | None = None
        self.meta: MetaExpressions | None = None
        prepared = [self._meta_path(name) for name in names if self._meta_path(name).is_file()]
        folders = self._open_prepared(prepared[0]) if prepared else self._open_raw(names, sentences)
        #: Whether every frame must have a mask; of other splits only first frames have any.
        self.needs_masks = split in ("train", *VALID)
        self.annotations = next((folder for folder in folders if folder.is_dir()), None)
        if self.annotations is None and self.needs_masks:
            raise InputError(f"{folders[0]} does not exist; unpack DAVIS with its annotations")

    @classmethod
    def splits(cls, root: Path) -> list[str]:
        """The splits that lie under a root."""
        names = {"train": ("train",), "valid": VALID}
        return [
            split
            for split, others in names.items()
            if any(
                (root / place).is_file()
                for name in others
                for place in (
                    f"meta_expressions/{name}/meta_expressions.json",
                    f"DAVIS/ImageSets/2017/{name}.txt",
                    f"ImageSets/2017/{name}.txt",
                )
            )
        ]

    def video(self, video_id: str, *, objects: bool = True) -> SourceVideo:
        """See `Dataset.video`."""
        frames = self.meta.frames(video_id) if self.meta is not None else self._listed(video_id)
        folder = self.images / video_id
        expressions = self._expressions(video_id)
        return SourceVideo(
            id=video_id,
            frame_names=frames,
            frame_times=times_of(frames),
            frames=ImageFiles([folder / f"{name}.jpg" for name in frames], video_id),
            expressions=expressions,
            objects=self._objects(video_id, frames, expressions) if objects else {},
        )

    def _open_prepared(self, path: Path) -> list[Path]:
        """Takes sentences and frames from one layout; returns where masks may be."""
        self.meta = MetaExpressions(path)
        self.ids = self.meta.ids
        self._files.append(path)
        folder = self.root / path.parent.name
        self.images = folder / "JPEGImages"
        return [folder / "Annotations"]

    def _open_raw(self, names: tuple[str, ...], sentences: bool) -> list[Path]:
        """The same from the other layout."""
        davis = self.root / "DAVIS" if (self.root / "DAVIS").is_dir() else self.root
        self.images = davis / "JPEGImages" / "480p"
        self.ids = self._read_list(davis, names)
        if sentences:
            self._sentences = self._read_texts()
        # The benchmark's scores are of the annotations of the unsupervised challenge.
        return [davis / f"Annotations{kind}" / "480p" for kind in ("_unsupervised", "")]

    def _meta_path(self, name: str) -> Path:
        return self.root / "meta_expressions" / name / "meta_expressions.json"

    def _read_list(self, davis: Path, names: tuple[str, ...]) -> list[str]:
        paths = [davis / "ImageSets" / "2017" / f"{name}.txt" for name in names]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise InputError(
                f"neither {self._meta_path(names[0])} nor {paths[-1]} exists; give the folder of"
                " Ref-DAVIS17, prepared or as downloaded, and a split that it has"
            )
        self._files.append(path)
        ids = path.read_text("utf-8", errors="replace").split()
        if not ids or len(set(ids)) < len(ids):
            raise InputError(f"{path} names {'a video twice' if ids else 'no videos'}")
        return ids

    def _read_texts(self) -> dict[str, list[tuple[str, str]]]:
        """Video -> (object id, sentence) in the order of the expressions."""
        paths = [self.root / "davis_text_annotations" / name for name in FILES]
        files = [read_sentences(path) for path in paths]
        self._files += paths
        made = {}
        for video_id in self.ids:
            rows = [file.get(video_id, []) for file in files]
            said = [[target for target, _ in row] for row in rows]
            # A video whose annotators do not pair up fails when it is asked for.
            if said.count(said[0]) == ANNOTATORS:
                made[video_id] = [pair for four in zip(*rows, strict=True) for pair in four]
        return made

    def _listed(self, video_id: str) -> list[str]:
        """Frame names of a downloaded video: all that have a JPEG or a mask, hidden files apart."""
        if not plain_name(video_id):
            raise InputError(f"video {video_id!r} of {self.split}: ids are plain names of folders")
        folders = ((self.images, ".jpg"), (self.annotations, ".png"))
        # A frame that lacks either is named when it is read, instead of being left out.
        names = {
            path.stem
            for folder, suffix in folders
            if folder is not None
            for path in (folder / video_id).glob(f"[!.]*{suffix}")
        }
        if names:
            return sorted(names)
        raise InputError(
            f"video {video_id}: the folder {self.images / video_id} holds no JPEGs; complete the"
            " download of DAVIS"
        )

    def _expressions(self, video_id: str) -> list[SourceExpression]:
        if self.meta is not None:
            said = self._prepared(video_id)
        elif self._sentences is None:
            said = []
        elif not self._sentences.get(video_id):
            raise InputError(
                f"video {video_id}: the files in {self.root / 'davis_text_annotations'} have no"
                " sentences for it, or not each the same objects; download them again"
            )
        else:
            said = self._sentences[video_id]
        return [
            SourceExpression(id=str(i), text=text, object_ids=[target], annotation_ids=[target])
            for i, (target, text) in enumerate(said)
        ]

    def _prepared(self, video_id: str) -> list[tuple[str, str]]:
        """(object id, sentence) in the order of the expressions."""
        expressions = self.meta.expressions(video_id)
        ids = [str(i) for i in range(len(expressions))]
        if set(ids) != set(expressions) or len(ids) % ANNOTATORS:
            raise self.meta.error(
                video_id,
                f'the ids of its {len(ids)} expressions are not "0" to "4K-1" for K objects;'
                " prepare the sentences again",
            )
        said = []
        for i in ids:
            target = object_id(expressions[i].get("obj_id"))
            if target is None or (len(said) % ANNOTATORS and target != said[-1][0]):
                raise self.meta.error(
                    video_id,
                    f'expression {i!r}: "obj_id" is {expressions[i].get("obj_id")!r}, but each'
                    f" {ANNOTATORS} in a row mean one object, an id of 1 to 254",
                )
            said.append((target, expressions[i]["exp"]))
        return said


def read_sentences(path: Path) -> Sentences:
    """One of the four files.

    Raises:
        InputError: the file is missing, or a line does not say sequence, object and sentence.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; unpack all of davis_text_annotations")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:  # the files of the second annotator
        text = data.decode("latin-1")
    made: Sentences = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        fields = line.split(maxsplit=2)
        target = object_id(fields[1]) if len(fields) == 3 else None
        sentence = fields[2].strip().strip('"“”').strip() if target else ""
        if target is None or not sentence:
            raise InputError(
                f"{path}, line {number} is {line.strip()[:60]!r}, not the name of a sequence, the"
                " id of an object and a sentence"
            )
        sequence = MISSPELT.get(fields[0], fields[0])
        made.setdefault(sequence, []).append((target, sentence))
    return {name: sorted(of, key=lambda pair: int(pair[0])) for name, of in made.items()}
