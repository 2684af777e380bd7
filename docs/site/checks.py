"""Hooks of MkDocs: links out of docs/ become addresses of copied files, and nothing may load from elsewhere."""

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)(#[^)]*)?\)")  # of a page in docs/
LOADED = re.compile(
    r"<(?:script|img|source|iframe|video|audio)\b[^>]*\bsrc(?:set)?=[\"']?(?:https?:)?//[^\"'> ]+"
    r"|<link\b[^>]*\brel=[\"']?(?:stylesheet|preconnect|dns-prefetch|preload|icon)"
    r"[^>]*href=[\"']?(?:https?:)?//[^\"'> ]+"
    r"|@import\s+(?:url\()?[\"']?(?:https?:)?//|url\([\"']?(?:https?:)?//"
)
PICTURE = re.compile(r'<picture><source [^>]*srcset="([^"]+)"><img src="([^"]+)" alt="([^"]+)"></picture>')


def on_files(files: Files, config: Any) -> Files:
    """Add the files outside docs/ that pages link to, as they are, under files/."""
    wanted = {
        target
        for page in files.documentation_pages()
        for target, _ in OUTSIDE.findall(page.content_string)
        if (ROOT / target).is_file()
    }
    for target in sorted(wanted):
        files.append(File.generated(config, f"files/{target}.txt", content=(ROOT / target).read_bytes()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links out of docs/ to the copies, and let pictures follow the page's own switch of light and dark."""
    markdown = PICTURE.sub(r"![\3](\2#only-light) ![\3](\1#only-dark)", markdown)
    return OUTSIDE.sub(lambda found: f"](files/{found[1]}.txt)", markdown)


def on_post_build(config: Any) -> None:
    """Check that no page and no style loads anything from elsewhere.

    Raises:
        PluginError: one does.
    """
    site = Path(config.site_dir)
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        if found := LOADED.search(path.read_text()):
            raise PluginError(f"{path.relative_to(site)} loads from elsewhere: {found[0][:120]}")
