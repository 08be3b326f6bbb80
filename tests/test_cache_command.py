"""``fedserdiff cache``: its report on a cache, and the cache's place."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedserdiff.commands import cache as command
from fedserdiff.experiments.opened_federation import Cache
from fedserdiff.federation import phantom_federation
from fedserdiff.settings.sources import make_settings
from sites.hospital import open_hospital


def call(*arguments: str) -> str:
    answer = CliRunner(env={"COLUMNS": "160"}).invoke(command.app, list(arguments))
    assert answer.exit_code == 0, answer.output
    return " ".join(answer.output.split())


def test_it_lists_verifies_and_prunes(tmp_path: Path) -> None:
    config, kept = make_settings("smoke"), Cache(tmp_path / "kept")
    (site,) = phantom_federation(1, config, kept.phantoms)
    cases = open_hospital(site, config, kept.prepared).cases
    where = ("--cache", str(kept.root))
    listed = call(*where)
    assert "t1, t1ce, t2, flair" in listed
    assert "16 × 24 × 16" in listed
    assert "8 mm" in listed
    assert re.search(rf"│ {len(cases)} │ 0\.[12] │", listed), "cases and MB"
    assert "today" in listed
    assert call(*where, "verify").endswith("0 prepared cases are damaged, 0 scans have changed")
    assert call(*where, "prune").endswith("0.0 MB freed")
    assert f"{len(cases)} cases deleted" in call(*where, "prune", "--days", "0")
    assert "prepared cases 0.0 MB" in call(*where)


def test_the_cache_is_where_the_environment_says_or_among_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDSERDIFF_CACHE", str(tmp_path / "here"))
    assert Cache().prepared == tmp_path / "here" / "cases"
    assert call().startswith(f"{tmp_path / 'here'}: prepared cases 0.0 MB, phantom scans 0.0 MB")
    monkeypatch.delenv("FEDSERDIFF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert Cache().root == tmp_path / "caches" / "fedserdiff"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Cache().root == tmp_path / ".cache" / "fedserdiff"
    assert Cache.at(tmp_path).root == tmp_path
