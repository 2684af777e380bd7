"""One name for all commands, and the doctor's lines."""

import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

import jaxlesion
from jaxlesion import __main__, doctor
from jaxlesion.__main__ import COMMANDS, main
from jaxlesion.runtime import health
from jaxlesion.runtime.health import Line

PROGRAMS = {path.stem for path in Path(jaxlesion.__file__).parent.glob("*.py") if not path.stem.startswith("_")}


def test_every_program_is_a_command():
    assert set(COMMANDS) == PROGRAMS - {"api"}


def test_without_a_command_all_are_listed(capsys):
    main([])
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in COMMANDS)
    main(["--version"])
    assert capsys.readouterr().out.strip() == jaxlesion.__version__


def test_the_installed_name_is_the_same_program():
    project = tomllib.loads((Path(jaxlesion.__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"jaxlesion": f"{main.__module__}:{main.__name__}"}


def test_a_command_gets_its_options(tiny_run, capsys):
    main(["evaluate", "--run", str(tiny_run), "--bootstrap", "0"])
    assert "ROC AUC" in capsys.readouterr().out


@pytest.mark.parametrize(("word", "hint"), [("trian", "did you mean train?"), ("x", "there is no command 'x' (see")])
def test_a_wrong_command_is_one_line(word, hint, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([word])
    assert hint in capsys.readouterr().err


def test_completion_knows_commands_and_options(tmp_path, capsys):
    main(["completion", "bash"])
    text = capsys.readouterr().out
    for word in (*COMMANDS, "--run-dir", "--features.without", "--submission"):
        assert word in text
    (tmp_path / "script").write_text(text)
    subprocess.run(["bash", "-n", tmp_path / "script"], check=True)
    with pytest.raises(SystemExit, match="2"):
        main(["completion", "fish"])


def test_the_doctor_finds_nothing_to_mend_here(capsys, monkeypatch):
    monkeypatch.setattr(health, "LEAST_MEMORY", 0)
    monkeypatch.setattr(health, "LEAST_DISK", 0)
    doctor.main([])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "nothing to mend"
    assert all(line.startswith("ok ") for line in lines[:-1])
    assert f"jax {jax.__version__}" in "\n".join(lines)


def test_what_is_wrong_has_a_remedy_and_an_exit_code(capsys, monkeypatch):
    monkeypatch.setattr(health, "NVIDIA", Path(__file__))
    monkeypatch.setattr(health, "LEAST_MEMORY", 2**20)
    monkeypatch.setattr(health.metadata, "requires", lambda name: ["jax>=999", "no-such-package", "numpy"])
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(SystemExit, match="1"):
        doctor.main([])
    out = capsys.readouterr().out
    assert "-> there is an NVIDIA GPU that JAX does not use: unset JAX_PLATFORMS=cpu" in out
    assert f"install jax>=999 (here {jax.__version__}); no-such-package (here none): pip install" in out
    assert "GiB: close other programs" in out
    assert out.endswith("3 to mend\n")
    monkeypatch.delenv("JAX_PLATFORMS")
    assert any('pip install "jaxlesion[cuda13]"' in (line.todo or "") for line in health._devices())


def test_a_gpu_is_told_how_much_it_holds_and_which_batch_fills_it(monkeypatch):
    card = SimpleNamespace(
        platform="gpu", device_kind="H200", memory_stats=lambda: {"bytes_limit": 4 * 3 * 128**2 * 1000}
    )
    monkeypatch.setattr(health.jax, "devices", lambda: [card])
    found = {line.what: line.found for line in health._devices()}
    assert found["devices"] == "gpu: 1 x H200; --model.dtype auto computes in bfloat16"
    assert found["GPU memory"].endswith("up to 1,000 crops of 128 px stay there")
    assert "--data.batch-size 256" in found["batch"]


def test_a_folder_is_measured(tmp_path):
    assert health.folder_line("caches", tmp_path / "none").found.startswith("none in ")
    (tmp_path / "file").write_bytes(bytes(3 * 2**20))
    assert health.folder_line("caches", tmp_path) == Line("caches", f"1 file, 3 MiB in {tmp_path}")


def test_it_is_the_module_too():
    done = subprocess.run([sys.executable, "-m", "jaxlesion", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == jaxlesion.__version__
    assert __main__.SHELLS == ("bash", "zsh")
