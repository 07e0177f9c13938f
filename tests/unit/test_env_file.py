"""Tests where `.env` and the data folder are found: beside the program, and never in the current folder."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from shared.settings import Settings, load_settings


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can enter, unlike pytest's folders."""
    made = Path(tempfile.mkdtemp(prefix="tonnetz-settings-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A folder in place of the checkout, with an empty current folder elsewhere."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    program, current = folder / "program", folder / "current"
    for made in (program, current):
        made.mkdir(mode=0o755)
    (program / "pyproject.toml").touch()
    monkeypatch.setattr("shared.settings._PROGRAM", program)
    monkeypatch.chdir(current)
    return program


def test_a_file_of_the_current_folder_is_not_read(checkout: Path) -> None:
    Path(".env").write_text("OPENAI_BASE_URL=http://127.0.0.1:9999/v1\nTONNETZ_DATA_DIR=/elsewhere\n")
    settings = load_settings()
    assert settings.openai_base_url is None
    assert settings.tonnetz_data_dir == checkout / ".tonnetz"


def test_the_file_of_the_checkout_is_read_from_every_folder(checkout: Path) -> None:
    (checkout / ".env").write_text("EMBEDDING_PROVIDER=ollama\nTONNETZ_DATA_DIR=data\n")
    settings = load_settings()
    assert settings.embedding_provider == "ollama"
    assert settings.tonnetz_data_dir == checkout / "data", "relative to the folder of the file"


@pytest.mark.parametrize("given", ["/srv/tonnetz", "~/tonnetz"])
def test_a_full_path_of_the_data_folder_stays(checkout: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("TONNETZ_DATA_DIR", given)
    assert load_settings().tonnetz_data_dir == Path(given).expanduser()


def test_another_file_can_be_named(checkout: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (checkout / ".env").write_text("EMBEDDING_PROVIDER=ollama\n")
    (folder / "named").write_text("EMBEDDING_MODEL=from-the-named-file\n")
    monkeypatch.setenv("TONNETZ_ENV_FILE", str(folder / "named"))
    settings = load_settings()
    assert (settings.embedding_provider, settings.embedding_model) == ("onnx", "from-the-named-file")
    monkeypatch.setenv("TONNETZ_ENV_FILE", str(folder / "missing"))
    with pytest.raises(ConfigurationError, match=r"^TONNETZ_ENV_FILE: there is no such file"):
        load_settings()


def test_an_installed_package_uses_the_folder_of_its_user(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "pyproject.toml").unlink()
    (checkout / ".env").write_text("EMBEDDING_PROVIDER=nonsense\n")
    user = checkout.parent / "user"
    (user / ".tonnetz").mkdir(parents=True)
    (user / ".tonnetz" / ".env").write_text("EMBEDDING_PROVIDER=ollama\n")
    monkeypatch.setenv("HOME", str(user))
    settings = load_settings()
    assert settings.embedding_provider == "ollama"
    assert settings.tonnetz_data_dir == user / ".tonnetz"


@pytest.mark.parametrize(
    ("mode", "can"), [(0o600, None), (0o640, None), (0o644, "read"), (0o646, "change"), (0o602, "change")]
)
def test_a_file_that_others_can_read_is_warned_of_once(
    checkout: Path, caplog: pytest.LogCaptureFixture, mode: int, can: str | None
) -> None:
    file = checkout / ".env"
    file.write_text("FUNCTIONS_API_KEY=s3cret-s3cret-s3cret\n")
    file.chmod(mode)
    load_settings()
    load_settings()
    expected = [f"{file}: other users of this machine can {can} this file, which may contain keys; chmod 600 it"]
    assert [record.getMessage() for record in caplog.records] == (expected if can else [])


def test_a_file_in_a_closed_folder_is_not_warned_of(checkout: Path, caplog: pytest.LogCaptureFixture) -> None:
    (checkout / ".env").write_text("FUNCTIONS_API_KEY=s3cret-s3cret-s3cret\n")
    (checkout / ".env").chmod(0o644)
    checkout.parent.chmod(0o700)
    load_settings()
    assert caplog.records == []


def test_the_null_device_stands_for_no_file(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (checkout / ".env").write_text("EMBEDDING_PROVIDER=ollama\n")
    monkeypatch.setenv("TONNETZ_ENV_FILE", os.devnull)
    with caplog.at_level(logging.WARNING):
        assert load_settings().embedding_provider == "onnx"
    assert caplog.records == []
