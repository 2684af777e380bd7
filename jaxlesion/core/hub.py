"""Files of the Hugging Face hub, where a path may be `hf://USER/NAME` or `hf://USER/NAME@REVISION`."""

import re
from pathlib import Path
from typing import NamedTuple

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import sha256

SCHEME = re.compile(r"hf:/+")
NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+))?/?")


class Repository(NamedTuple):
    """A repository of the hub, at one revision."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.name}" + (f"@{self.revision}" if self.revision else "")

    @property
    def folder(self) -> str:
        """Name of a folder for its files."""
        return re.sub(r"[/@]", "--", f"{self.name}@{self.revision}" if self.revision else self.name)


def repository_of(path: str | Path) -> Repository | None:
    """Return the repository that an hf:// address means; None for other paths. `Path` has made one slash of two.

    Raises:
        InputError: the address is not of this form.
    """
    if not (scheme := SCHEME.match(str(path))):
        return None
    rest = str(path)[scheme.end() :]
    if not (found := NAME.fullmatch(rest)):
        raise InputError(f"hf://{rest}: give hf://USER/NAME, or hf://USER/NAME@REVISION")
    return Repository(found["name"], found["revision"])


def download(repository: Repository, name: str, path: Path, otherwise: str) -> None:
    """Download a file of the hub to `path`. The SHA-256 of weights is checked, and of others where the hub states one.

    Args:
        repository: where it is.
        name: of the file in it.
        path: where it goes.
        otherwise: end of the message where it fails, such as "; give that file by --weights".

    Raises:
        InputError: it cannot be had, or is not what the hub states.
    """
    import huggingface_hub as hub

    address = hub.hf_hub_url(repository.name, name, revision=repository.revision)
    try:
        stated = hub.get_hf_file_metadata(address).etag or ""
        into = path.parent / "download"
        fetched = Path(hub.hf_hub_download(repository.name, name, revision=repository.revision, local_dir=into))
    except Exception as e:  # the hub's client raises its own, the transport's and the system's errors
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:160]
        raise InputError(
            f"{name} of {repository} could not be downloaded ({reason}): fetch {address} elsewhere and save it as "
            f"{path}{otherwise}"
        ) from None
    # Of small files the hub states another digest, which is shorter.
    is_stated = len(stated) == 64 or name.endswith(".safetensors")
    if is_stated and (digest := sha256(fetched)) != stated:
        fetched.unlink()
        raise InputError(f"{address}: the download's SHA-256 is {digest}, the hub states {stated}; try again")
    path.parent.mkdir(parents=True, exist_ok=True)
    fetched.replace(path)
