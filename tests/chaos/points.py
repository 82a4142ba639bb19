"""Every crash point: the service's code, killed at each of its lines in turn.

    python -m tests.chaos.points MODE --database URL --simulator URL

runs those of one mode; `tests.chaos` starts one for each. Each line on stdout is a JSON object: the progress,
and in the end the result.
"""

import argparse
import json
import sys
from typing import Any

import django

from tests.chaos.ground import Provider
from tests.chaos.modes import MODES


def say(**words: Any) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.points")
    parser.add_argument("mode", choices=[mode.name for mode in MODES])
    parser.add_argument("--database", required=True, help="its URL, for plain SQL")
    parser.add_argument("--simulator", required=True, help="its URL")
    parser.add_argument("--points", type=int, default=0, help="about so many, evenly chosen (default: each line)")
    parser.add_argument("--seed", type=int, default=0, help="where to begin")
    parser.add_argument("--only", default="", metavar="OPERATION", help="of this operation (default: of all)")
    options = parser.parse_args()
    django.setup()
    from tests.chaos.scene import Scene  # wants Django to be set up

    mode = next(mode for mode in MODES if mode.name == options.mode)
    scene = Scene(mode, options.database, Provider(options.simulator), say)
    say(result=scene.play(options.points, options.seed, options.only))
    return 0


if __name__ == "__main__":
    sys.exit(main())
