"""The process of a contestant: prepares, then runs a turn for every `go`, until the socket closes.

python -m benchmarks.peers DESCRIPTOR MODULE OPTIONS
"""

import importlib
import json
import socket
import sys
import time
from typing import Any


def main(descriptor: int, module: str, options: str) -> None:
    """Serve turns on the socket inherited as `descriptor`."""
    turn = importlib.import_module(f"benchmarks.peers.{module}").prepare(**json.loads(options))
    with socket.socket(fileno=descriptor) as end, end.makefile("rw") as channel:
        answer: dict[str, Any] = {}
        while True:
            channel.write(json.dumps(answer) + "\n")
            channel.flush()
            order = channel.readline()
            if not order:
                return
            began = time.process_time()
            answer = turn(json.loads(order)["go"])
            answer["cpu_seconds"] = time.process_time() - began


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
