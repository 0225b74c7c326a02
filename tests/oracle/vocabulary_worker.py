"""TensorFlow 1.15 and vocabularies: JSON lines in, JSON lines out. Runs on Python 3.7.

    {"old": base64, "new": base64, "options": {...}, "rows": n}

The answer is that of the generator of `tests/data/vocabulary`, by the same code: the
`values` that `tf.train.warm_start` gave, or its `error`.
"""

import base64
import json
import os
import sys
import warnings

os.environ["CUDA_VISIBLE_DEVICES"] = ""
warnings.filterwarnings("ignore")
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "data", "generators"))


def main():
    import vocabulary  # here: it imports TensorFlow

    for line in sys.stdin:
        case = json.loads(line)
        old, new = (base64.b64decode(case[name]) for name in ("old", "new"))
        answer = vocabulary.run(old, new, case["options"], case["rows"])
        sys.stdout.write("ANSWER " + json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
