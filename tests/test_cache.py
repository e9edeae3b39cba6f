"""Tables are kept where the caller says, and nowhere else."""

import os
from pathlib import Path

import pytest

from certify.cache import use_cache
from smoothing.errors import SmoothingError
from smoothing.radius import table


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_folder", None)
    monkeypatch.setenv("CERTIFY_CACHE", str(tmp_path / "tables"))
    use_cache()
    assert table._folder == tmp_path / "tables"
    assert (tmp_path / "tables").is_dir()


def test_an_impossible_folder_is_an_error_only_if_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(table, "_folder", None)
    monkeypatch.setenv("CERTIFY_CACHE", str(tmp_path / "file" / "tables"))
    with pytest.raises(SmoothingError, match="cannot create the cache folder"):
        use_cache()
    monkeypatch.delenv("CERTIFY_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "file" / "tables"))
    use_cache()
    assert table._folder is None
    assert "CERTIFY_CACHE" not in os.environ
