"""The extensions of the site: formulas, links to files of the repository, docstrings."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTENSIONS = ROOT / "docs" / "_ext"


def built(folder: Path, page: str, settings: str = "") -> tuple[str, str]:
    """The page as HTML, and the warnings of the build; the folder has `examples/x.py` beside its docs."""
    for needed in ("sphinx", "myst_nb", "latex2mathml"):
        pytest.importorskip(needed)
    docs = folder / "docs"
    docs.mkdir()
    (folder / "examples").mkdir()
    (folder / "examples" / "x.py").touch()
    (folder / "NEWS.md").write_text(
        "# News\n\n[home](docs/index.md) and [code](examples/x.py)\n", encoding="utf-8"
    )
    (docs / "index.md").write_text(page, encoding="utf-8")
    (docs / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(EXTENSIONS)!r})\n"
        'extensions = ["myst_parser", "rendered_math", "repository_links", "scrolling_regions"]\n'
        'myst_enable_extensions = ["dollarmath", "amsmath"]\nhtml_math_renderer = "mathml"\n' + settings,
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(docs), str(folder / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return (folder / "out" / "index.html").read_text(encoding="utf-8"), ended.stderr


def test_formulas_are_typeset_and_wrong_ones_are_warnings(tmp_path: Path) -> None:
    page = r"""# Title

Inline $\mathcal{N}(0, I)$.

$$
a &= b \\
c &= \operatorname*{arg\,max}_\theta d
$$ (numbered)

\begin{align}
  p(x) &= \int p(x, z) \, dz
\end{align}

    indented code

Wrong: $\nosuchcommand$.
"""
    html, warnings = built(tmp_path, page)
    assert html.count("<math") == 4  # the wrong one, too
    assert "(1)" in html
    assert '<pre tabindex="0">' in html
    assert warnings.count("WARNING") == 1
    assert "nosuchcommand" in warnings


LINKS = "# Title\n\n[an example](../examples/x.py), [](../examples/x.py)\n\n```{include} ../NEWS.md\n```\n"


def test_files_of_the_repository_are_named(tmp_path: Path) -> None:
    """Without an address of the repository no link is made up; included files have links of their own."""
    html, warnings = built(tmp_path, LINKS)
    assert not warnings
    assert "an example" in html
    assert html.count("(<code") == 2
    assert html.count("examples/x.py</span></code>") == 3
    assert ">home</span></a>" in html
    assert "_downloads" not in html


@pytest.mark.slow
def test_files_of_the_repository_are_linked(tmp_path: Path) -> None:
    html, warnings = built(tmp_path, LINKS, 'repository_url = "https://example.org/r"\n')
    assert not warnings
    assert html.count('href="https://example.org/r/blob/main/examples/x.py"') == 3


def test_docstrings_become_restructured_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    plain = pytest.importorskip("plain_docstrings")
    lines = [
        "The power |x|^2 of `avse.data.stft`, *any* `kind`.",
        "",
        "    p(x) = |x|^2 * a_",
        "",
        "Args:",
        "    low, high: range, dB,",
        "        of both.",
        "    more: a | b.",
    ]
    assert plain.restructured(plain.one_name_each(lines)) == [
        r"The power \|x\|^2 of :py:obj:`avse.data.stft`, \*any\* ``kind``.",
        "",
        "::",
        "",
        "    p(x) = |x|^2 * a_",
        "",
        "Args:",
        "    low: range, dB,",
        "        of both.",
        "    high: range, dB,",
        "        of both.",
        r"    more: a \| b.",
    ]
