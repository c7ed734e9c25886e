"""`worker.main` that loads what a job needs before it forks a child for it, so that jobs begin at once."""

import tests.worker.preloaded
from nextchar.worker import main

if __name__ == "__main__":
    assert tests.worker.preloaded
    main.main()
