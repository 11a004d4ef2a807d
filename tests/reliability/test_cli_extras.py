"""What is not in the base install is asked for by name, and enhancement does without it."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile as sf

HIDDEN = ("h5py", "lightning", "espeakng_loader", "fast_bss_eval", "pesq", "pystoi", "mtcnn")
UNNEEDED = {"arviz", "matplotlib", "sklearn", "tensorflow"}
START = (
    "import sys; sys.modules.update(dict.fromkeys({hidden!r})); sys.argv = ['avse', *{arguments!r}]; "
    "from avse.cli import app, commands; app.main()"
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line where optional modules cannot be imported."""
    code = START.format(hidden=HIDDEN, arguments=arguments)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_commands_name_the_extra_they_lack(tmp_path) -> None:
    done = run("train", "a-vae", "--out", str(tmp_path / "run"))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "avse[train]" in done.stderr
    done = run("evaluate", "--corpus", "synthetic", "--out", str(tmp_path / "results"))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "avse[metrics]" in done.stderr
    done = run("enhance", "absent.wav")
    assert (done.returncode, done.stderr.strip()) == (2, "avse: absent.wav: does not exist; check the name")


@pytest.mark.slow
def test_enhancement_starts_without_what_it_does_not_need(tmp_path) -> None:
    """A sound is enhanced where h5py and all extras are missing; nothing that draws or trains is imported."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(4000)
    sf.write(tmp_path / "noisy.wav", samples, 16000)
    (tmp_path / "lips.mat").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({HIDDEN!r})); import avse; import avse.cli.commands\n"
        f"r = avse.enhance({str(tmp_path / 'noisy.wav')!r}, model='a-vae')\n"
        f"assert r.speech.shape == (4000,), r.speech.shape\n"
        f"print(*{UNNEEDED!r} & sys.modules.keys())\n"
        "from avse.data.lips.files import lips_from\n"
        f"try:\n    lips_from({str(tmp_path / 'lips.mat')!r}, 30.0)\n"
        "except avse.data.errors.InputError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    imported, said = done.stdout.splitlines()
    assert imported == ""
    assert "h5py" in said
    assert "avse[video]" in said
