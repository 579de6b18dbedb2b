"""Look at a cache, repair it, and take parts of it::

    python -m cache_schema info CACHE [--json]
    python -m cache_schema stats CACHE [--out PICTURE.png] [--json]
    python -m cache_schema verify CACHE [--quick] [--repair]
    python -m cache_schema copy CACHE FOLDER [--videos FILE] [--without mask_features] [--split N M]

Exit status: 0 sound, 1 damaged (``verify`` lists the videos; also when it repaired the cache),
2 cannot be read.
"""

import json
import sys
from pathlib import Path

from cache_schema import copying, info, stats
from cache_schema.address import local_folder
from cache_schema.host import cli
from cache_schema.reader import CacheReader
from cache_schema.repair import repair
from cache_schema.verify import verify


def main(argv: list[str]) -> int:
    """Run one command and return its exit status."""
    parser = cli.parser("cache_schema", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("info", help="what the cache holds, in numbers")
    show.add_argument("cache", metavar="CACHE", help="the cache folder")
    show.add_argument("--json", action="store_true", help="print JSON")
    sizes = commands.add_parser("stats", help="frames, objects and words, how they are spread")
    sizes.add_argument("cache", metavar="CACHE", help="the cache folder")
    sizes.add_argument("--out", metavar="PICTURE.png", type=local_folder, help="draw histograms")
    sizes.add_argument("--json", action="store_true", help="print JSON")
    check = commands.add_parser("verify", help="compute every checksum again")
    check.add_argument("cache", metavar="CACHE", help="the cache folder")
    add = check.add_argument
    add("--quick", action="store_true", help="sizes, names and attributes only, no data")
    damaged = "take out what is damaged, so that the same extraction brings it back"
    add("--repair", action="store_true", help=damaged)
    part = commands.add_parser("copy", help="a part of a cache, or one without mask features")
    add = part.add_argument
    add("cache", metavar="CACHE", help="the cache folder")
    add("folder", metavar="FOLDER", help="where to; a copy that is there is completed")
    add("--videos", metavar="FILE", type=Path, help="only these: an id a line")
    add("--without", choices=["mask_features"], help="makes a light cache")
    add("--split", nargs=2, type=int, default=(1, 1), metavar=("N", "M"), help="part N of M")
    arguments = parser.parse_args(argv)

    if arguments.command == "info":
        found = info.summary(CacheReader(arguments.cache))
        # ASCII JSON: an id may hold what the terminal cannot print.
        print(json.dumps(found, indent=2) if arguments.json else "\n".join(info.lines(found)))
        return 0
    if arguments.command == "stats":
        reader = CacheReader(arguments.cache)
        counts = stats.collect(reader)
        found = stats.summary(counts)
        title = " ".join(filter(None, (reader.dataset, reader.facts.release, reader.split)))
        if arguments.out:
            stats.draw(counts, f"{title}: {len(reader)} videos", arguments.out)
        text = "\n".join(stats.lines(found, title))
        print(json.dumps(found, indent=2) if arguments.json else text)
        return 0
    if arguments.command == "copy":
        copied = copying.copy(
            arguments.cache,
            arguments.folder,
            videos=copying.read_ids(arguments.videos) if arguments.videos else None,
            light=arguments.without is not None,
            part=tuple(arguments.split),
        )
        there = f", {copied.there} videos were there already" if copied.there else ""
        print(f"{arguments.folder}: copied {copied.videos} videos, {copied.frames} frames{there}")
        return 0
    look = repair if arguments.repair else verify
    report = look(arguments.cache, quick=arguments.quick)
    print("\n".join(report.lines()))
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(cli.run(main))
