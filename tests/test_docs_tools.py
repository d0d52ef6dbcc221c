"""What looks after the documentation: links of the built site, and the page that is typed as written."""

from pathlib import Path

import pytest

from docs.links import faults
from docs.typed import PageIsWrong, Reader, steps

PAGE = """\
# A page

A new file, `told/it.py`:

```python
print("first 2026-11-28T05:40:12.120301Z")
```

```sh
mkdir -p other && cd told
```

At the end of `it.py`:

```python
print("second")
```

```console
$ python3 it.py
first 2025-01-02T03:04:05Z
...
second
```

```sh fails
ls nothing-of-this-name
```
"""


def follow(page: str, folder: Path) -> None:
    with Reader(folder) as reader:
        for step in steps(page):
            reader.follow(step)


def test_a_page_is_typed_from_its_first_line_to_its_last(tmp_path: Path) -> None:
    follow(PAGE, tmp_path)
    assert (tmp_path / "other").is_dir()


@pytest.mark.parametrize(
    "wrong",
    [
        PAGE.replace("...\nsecond", "...\nthird"),
        PAGE.replace("ls nothing", "true nothing"),
        PAGE.replace("cd told", "cd nowhere"),
        PAGE.replace("```sh fails", "```sh stays"),
    ],
    ids=["shows something else", "does not fail", "fails", "ends by itself"],
)
def test_a_page_that_is_not_true_is_noticed(wrong: str, tmp_path: Path) -> None:
    with pytest.raises(PageIsWrong):
        follow(wrong, tmp_path)


def test_what_goes_on_ends_where_the_page_says_so(tmp_path: Path) -> None:
    # sigwait: a signal that came just before signal.pause() would leave that waiting.
    page = """\
```sh stays
python3 -c 'from signal import SIG_BLOCK as block, SIGINT as ctrl_c, pthread_sigmask, sigwait
pthread_sigmask(block, {ctrl_c}); print("Ctrl-C drains", flush=True); sigwait({ctrl_c})'
```

Press Ctrl-C.
"""
    with Reader(tmp_path) as reader:
        started, key = steps(page)
        reader.follow(started)
        assert reader.is_waiting
        reader.follow(key)
        assert not reader.is_waiting


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.html").write_text('<h1 id="there">Other</h1>', encoding="utf-8")
    (tmp_path / "index.html").write_text(
        '<a href="other.html#there"></a> <a href="#here"></a> <a href="https://example.org"></a>'
        '<h1 id="here">Index</h1> <a href="gone.html"></a> <a href="other.html#gone"></a>'
        '<script src="https://cdn.example/x.js"></script> <img src="data:image/png;base64,AA==">',
        encoding="utf-8",
    )
    assert sorted(faults(tmp_path)) == [
        "index.html: loads https://cdn.example/x.js",
        "index.html: no heading other.html#gone",
        "index.html: no page gone.html",
    ]
