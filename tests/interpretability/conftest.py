"""TransformerLens and nnsight are an extra: without it these tests are skipped, and say so."""

from importlib.util import find_spec

import pytest

MISSING = [name for name in ("transformer_lens", "nnsight") if find_spec(name) is None]
REASON = f"needs {' and '.join(MISSING)}: make test-interpretability installs the extra"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items if MISSING else []:
        if item.path.parent.name == "interpretability":
            item.add_marker(pytest.mark.skip(reason=REASON))
