"""The command of the page: its address, its warnings, and what it needs."""

import sys

import pytest

from jaxlesion import app
from jaxlesion.serving import server


@pytest.fixture
def unheard(monkeypatch):
    """Return the applications that would have been served."""
    made = []
    monkeypatch.setattr(server, "listen", lambda served, bound: (made.append(served), bound.close()))
    return made


def test_the_address_is_all_that_is_printed_and_the_model_is_named(tiny_run, unheard, capsys):
    app.main(["--run", str(tiny_run), "--port", "0"])
    printed = capsys.readouterr()
    assert printed.out.startswith("http://127.0.0.1:")
    assert printed.out.count("\n") == 1
    assert f"{tiny_run} predicts" in printed.err
    assert "an image takes" in printed.err
    assert "warning" not in printed.err
    assert len(unheard) == 1


def test_an_address_for_others_warns(tiny_run, unheard, capsys):
    app.main(["--run", str(tiny_run), "--port", "0", "--host", "0.0.0.0", "--api"])
    printed = capsys.readouterr()
    assert "there is no password and no encryption" in printed.err
    assert printed.out.strip().endswith("/predict")


def test_without_gradio_one_line_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as stopped:
        app.main([])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert 'pip install "jaxlesion[app]"' in said


def test_missing_training_data_is_said_and_the_page_goes_on(tiny_run, unheard, demo, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(tiny_run, tmp_path / "run")
    config = (copy / "config.json").read_text()
    (tmp_path / "empty").mkdir()
    (copy / "config.json").write_text(config.replace(str(demo), str(tmp_path / "empty")))
    app.main(["--run", str(copy), "--port", "0"])
    assert "no training lesions to compare with" in capsys.readouterr().err
