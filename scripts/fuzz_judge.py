"""Judge against a failing server under `kill -9` at random points, and check that nothing is lost
or paid for again.

python scripts/fuzz_judge.py --kills 100 --seed 0
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from judge_fuzz import fuzz


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=100)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--samples", type=int, default=1500, help="three candidates each")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = fuzz(
            Path(folder),
            kills=given.kills,
            samples=given.samples,
            seed=given.seed,
            stall=60.0,
            most_requests=240,
            say=lambda text: print(text, flush=True),
        )
    result.check()
    print(result.summary())


if __name__ == "__main__":
    main()
