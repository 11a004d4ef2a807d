"""What is not in the base install is asked for by name, and enhancement does without it."""

import subprocess
import sys

HIDDEN = ("lightning", "espeakng_loader", "fast_bss_eval", "pesq", "pystoi", "mtcnn")
START = (
    "import sys; sys.modules.update(dict.fromkeys({hidden!r})); sys.argv = ['avse', *{arguments!r}]; "
    "from avse.cli import app, commands; app.main()"
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line where optional modules cannot be imported."""
    code = START.format(hidden=HIDDEN, arguments=arguments)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_commands_name_the_extra_they_lack(tmp_path) -> None:
    done = run("train", "a-vae", "--out", str(tmp_path / "run"))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "avse[train]" in done.stderr
    done = run("enhance", "absent.wav")
    assert (done.returncode, done.stderr.strip()) == (2, "avse: absent.wav: does not exist; check the name")
