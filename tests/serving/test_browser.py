"""The page in a real browser: its results, its looks, and nothing asked of any other host."""

import base64
import csv
import io
import itertools

import pytest
from browser import browsing, find_browser

pytestmark = pytest.mark.extra
SHOWN = "!!document.querySelector('a.save')"
# Whether the warning is seen, in front of everything, wherever the page is scrolled to.
IN_SIGHT = """(() => {
  const box = document.querySelector('#warning').getBoundingClientRect();
  const top = document.elementFromPoint(innerWidth / 2, box.top + box.height / 2);
  return box.top >= 0 && box.bottom <= innerHeight && top.closest('#warning') !== null
    && top.innerText.includes('Not a medical device');
})()"""


@pytest.fixture
def browser(tmp_path):
    """Return a browser; skip the test where there is none."""
    if (path := find_browser()) is None:
        pytest.skip("no browser is installed")
    with browsing(path, tmp_path / "profile") as opened:
        yield opened


def check(browser, url: str) -> None:
    assert browser.js("document.documentElement.scrollWidth - innerWidth") <= 0
    assert not browser.complaints()
    assert browser.requested()
    assert not [asked for asked in browser.requested() if not asked.startswith((url, "data:", "blob:", "about:"))]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1400])
def test_a_crop_gets_its_card_and_the_warning_stays(browser, page, crops, width, dark):
    browser.open(page, width, dark=dark)
    assert browser.js(IN_SIGHT)
    browser.drop(*crops)
    browser.wait(SHOWN)
    assert browser.js("document.querySelectorAll('article.lesion').length") == len(crops)
    levels = browser.js("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert browser.js("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.least_contrast("body *") >= 4.5
    browser.js("scrollTo(0, document.body.scrollHeight)")
    assert browser.js(IN_SIGHT)
    assert browser.js("document.body.classList.contains('dark')") == dark
    check(browser, page)


def test_the_link_has_the_results_as_csv(browser, page, crops):
    browser.open(page).drop(*crops)
    browser.wait(SHOWN)
    content = browser.js("document.querySelector('a.save').href").partition("base64,")[2]
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(content).decode())))
    assert [row["image"] for row in rows] == [path.name for path in crops]


def test_a_hostile_file_shows_one_line_and_runs_nothing(browser, page, tmp_path):
    path = tmp_path / "<img src=x onerror=window.bad=1> ${window.bad=2}{{x}}.jpg"
    path.write_bytes(b"no image")
    browser.open(page).drop(path)
    browser.wait(SHOWN)
    assert "is not JPEG, PNG" in browser.js("document.querySelector('#cards [role=alert]').innerText")
    assert browser.js("document.querySelectorAll('#cards img').length") == 0
    assert browser.js("window.bad") is None
    check(browser, page)


def test_two_browsers_at_once_each_get_their_own(browser, page, crops, tmp_path):
    with browsing(find_browser(), tmp_path / "other") as other:
        for each, path in ((browser, crops[0]), (other, crops[1])):
            each.open(page).drop(path)
        for each, path in ((browser, crops[0]), (other, crops[1])):
            each.wait(SHOWN)
            assert each.js("document.querySelector('article h2').innerText") == path.name
