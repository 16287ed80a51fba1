"""`python -m task_queue_engine` is `tqe`."""

from task_queue_engine.cli import main

if __name__ == "__main__":
    main(prog_name="tqe")
