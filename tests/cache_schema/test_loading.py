"""Libraries load without a look for garbage, and without what they can do without."""

import gc
import sys
from pathlib import Path

import pytest

from cache_schema.host.loading import loading


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that takes another one where there is one."""
    (tmp_path / "dear.py").write_text("")
    (tmp_path / "cheap.py").write_text(
        "import gc\ntry:\n    import dear\nexcept ImportError:\n    dear = None\n"
        "collects = gc.isenabled()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("cheap", "dear"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_module_is_missing_inside_and_found_after(library: None) -> None:
    with loading("dear"):
        import cheap
    assert cheap.dear is None and not cheap.collects and gc.isenabled()
    import dear

    assert dear.__file__


def test_what_is_loaded_already_stays(library: None) -> None:
    import dear

    with loading("dear"):
        import cheap
    assert cheap.dear is dear is sys.modules["dear"]


def test_a_library_that_cannot_be_loaded_changes_nothing(library: None) -> None:
    with pytest.raises(ImportError), loading("dear"):
        import dear  # noqa: F401
    assert "dear" not in sys.modules and gc.isenabled()
