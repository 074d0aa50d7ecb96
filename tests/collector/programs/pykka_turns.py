"""For each line on stdin, 250 actors start and stop, each of a type of its own: 500 facts that no limit holds back."""


# ruff: noqa: T201 - it says when it is done

import itertools
import sys

import pykka


def main() -> None:
    numbers = itertools.count()
    for _ in sys.stdin:
        for number in itertools.islice(numbers, 250):
            type(f"Actor{number}", (pykka.ThreadingActor,), {}).start().stop()
        print("done", flush=True)


if __name__ == "__main__":
    main()
