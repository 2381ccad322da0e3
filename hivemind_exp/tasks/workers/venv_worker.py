"""Start a worker with the interpreter of another virtual environment, which has its own libraries.

Run as a file: ``python -P -s hivemind_exp/tasks/workers/venv_worker.py ROLE PARENT_PID``. Only this package is taken
from here. On the search path, its directory's other packages would hide or extend the libraries of that environment.
"""

import importlib.util
import sys
from pathlib import Path

if __name__ == "__main__":
    initial = Path(__file__).resolve().parents[2] / "__init__.py"
    found = importlib.util.spec_from_file_location("hivemind_exp", initial)
    assert found is not None
    assert found.loader is not None
    sys.modules["hivemind_exp"] = package = importlib.util.module_from_spec(found)
    found.loader.exec_module(package)

    from hivemind_exp.tasks.workers.worker import serve

    serve()
