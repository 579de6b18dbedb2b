"""The text annotations of DAVIS 2017 as they were published: four files, a line a sentence.

A line reads ``sequence object "sentence"``. Two people described every object, each twice: from the
first frame alone and from the whole video.
"""

from pathlib import Path

from cache_schema.host.cli import InputError
from extract.datasets.palette import object_id

#: In the order of the annotators in expression ids and in the benchmark's results.
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
