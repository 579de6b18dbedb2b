"""Text models on a machine without a network: one sentence at once, and how to bring them."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache_schema.host import cli
from extract.text import TextEncoder, WordDecoupler
from extract.text.hub import check_reachable
from scripts.fetch_text_models import main as fetch
from tests.extract.refusals import refused

BRING = ("scripts.fetch_text_models", "text.encoder=", "text.tagger=")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A proxy at a port that nobody listens at, or can."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{held.getsockname()[1]}")
        yield


def test_a_hub_name_is_refused_with_advice(no_network: None) -> None:
    refused(lambda: TextEncoder("nobody/has-this-model"), "nobody/has-this-model", *BRING)


def test_the_tagger_is_refused_with_advice(
    no_network: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import stanza

    monkeypatch.setattr(stanza.resources.common, "DEFAULT_MODEL_DIR", str(tmp_path))
    refused(lambda: WordDecoupler("en"), "tagger", *BRING)


def test_what_answers_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as hub:
        check_reachable(f"http://127.0.0.1:{hub.getsockname()[1]}/models", what="a model")


def test_fetching_without_a_network_is_bad_input(
    no_network: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.run(fetch, [str(tmp_path / "models"), "--encoder", "nobody/has-this-model"]) == 2
    assert "cannot be reached" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()
