"""Look at a cache: ``python -m cache_schema info CACHE [--json]`` and ``... verify CACHE``.

Exit status: 0 sound, 1 damaged (``verify`` lists the videos), 2 cannot be read.
"""

import argparse
import json
import sys

from cache_schema import cli, info
from cache_schema.reader import CacheReader
from cache_schema.verify import verify


def main(argv: list[str]) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m cache_schema", description="Look at a cache.")
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("info", help="what the cache holds, in numbers")
    show.add_argument("cache", metavar="CACHE", help="the cache folder")
    show.add_argument("--json", action="store_true", help="print JSON")
    check = commands.add_parser("verify", help="compute every checksum again")
    check.add_argument("cache", metavar="CACHE", help="the cache folder")
    arguments = parser.parse_args(argv)

    if arguments.command == "info":
        found = info.summary(CacheReader(arguments.cache))
        # ASCII JSON: an id may hold what the terminal cannot print.
        text = json.dumps(found, indent=2) if arguments.json else "\n".join(info.lines(found))
        print(text)
        return 0
    report = verify(arguments.cache)
    print("\n".join(report.lines()))
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(cli.run(main))
