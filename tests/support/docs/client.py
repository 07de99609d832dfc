"""Asks the test to run a command of a page, from the page's shell; the standard library alone."""

import json
import os
import socket
import sys


def main() -> None:
    """Sends the words, prints the answer's streams and ends with its status."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ["DOCS_SOCKET"])
        line, *words = sys.argv[1:]
        asked = {
            "line": int(line),
            "words": words,
            "environment": dict(os.environ),
            "cwd": os.getcwd(),
        }
        with server.makefile("rw") as stream:
            stream.write(json.dumps(asked) + "\n")
            stream.flush()
            answer = json.loads(stream.readline())
    sys.stdout.write(answer["out"])
    sys.stdout.flush()
    sys.exit(answer["status"])


main()
