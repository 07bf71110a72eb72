"""The server software: downloaded once by Maven coordinates, verified, unpacked into KP_CACHE.

Belongs here: download, checksums, unpacking. Does not belong here: how a server is started and its
data (that server's module).
An unpacked server is complete (one rename creates it) and never changes, so stacks share it and a
later start needs no network.
"""

import fcntl
import functools
import hashlib
import shutil
import subprocess
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

from kp_platform.local.errors import StackError

MANIFEST = Path(__file__).with_name("artifacts.toml")
TRINO_PLUGINS = {"kafka", "mysql", "password-authenticators", "redis"}


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of a Maven repository: group:name:version:packaging, its bytes and its hash."""

    coordinates: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        if self.coordinates.count(":") != 3:
            raise ValueError(f"{self.coordinates!r} is not group:name:version:packaging")
        if len(self.sha256) != 64 or self.size <= 0:
            raise ValueError(f"{self.coordinates}: wrong sha256 or size")


@dataclass(frozen=True, slots=True)
class Distribution:
    """One server: its artifacts and the folder it is unpacked to. `edition` distinguishes the
    folder from one with the same files, unpacked in another way."""

    name: str
    version: str
    artifacts: tuple[Artifact, ...]
    edition: str = ""

    @property
    def size(self) -> int:
        return sum(artifact.size for artifact in self.artifacts)

    def folder(self, cache: Path) -> Path:
        return cache / f"{self.name}-{self.version}{self.edition}"


@functools.cache
def manifest() -> dict[str, Distribution]:
    """Every server from Maven by its name."""
    servers = tomllib.loads(MANIFEST.read_text(encoding="utf-8"))
    return {
        name: Distribution(
            name,
            server["version"],
            tuple(Artifact(**each) for each in server["artifacts"]),
            server.get("edition", ""),
        )
        for name, server in servers.items()
    }


def distribution_folder(name: str, cache: Path) -> Path:
    """The folder of an unpacked server."""
    return manifest()[name].folder(cache)


def missing(names: Iterable[str], cache: Path) -> list[Distribution]:
    """Those of the servers that the cache lacks; a server not from Maven is never missing."""
    distributions = manifest()
    servers = [distributions[name] for name in names if name in distributions]
    return [server for server in servers if not server.folder(cache).is_dir()]


def ensure(names: Iterable[str], cache: Path, console: Console) -> None:
    """Download and unpack those of the servers that the cache does not hold.

    Raises StackError when an artifact cannot be downloaded or has another hash than the manifest.
    """
    names = tuple(names)
    if not missing(names, cache):
        return
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock", console):
        for server in missing(names, cache):
            _install(server, cache, console)


@contextmanager
def _locked(path: Path, console: Console) -> Iterator[None]:
    """Only one process fills the cache; a second one waits for it."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"waiting for another kp that downloads to {path.parent}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(server: Distribution, cache: Path, console: Console) -> None:
    downloads, unpacked = cache / "downloads", cache / f"unpacking-{server.name}"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    try:
        files = _download(server, downloads, console)
        unpack(server, files, unpacked)
        unpacked.rename(server.folder(cache))
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    shutil.rmtree(downloads, ignore_errors=True)


def _download(server: Distribution, folder: Path, console: Console) -> list[Path]:
    title = f"{server.name} {server.version}"
    if not console.is_terminal:
        console.print(
            f"downloading {title}: {len(server.artifacts)} file(s), {decimal(server.size)}"
        )
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"downloading {title}", total=server.size)
        return [_download_file(artifact, folder, progress, task) for artifact in server.artifacts]


def _download_file(artifact: Artifact, folder: Path, progress: Progress, task: TaskID) -> Path:
    remote = _maven_artifact(artifact, folder, lambda size: progress.advance(task, size))
    path = Path(remote.cached_path)
    if path.exists() and _sha256(path) != artifact.sha256:
        path.unlink()  # an interrupted download
    try:
        remote.resolve()
    except BaseException as error:
        path.unlink(missing_ok=True)
        if not isinstance(error, (OSError, RuntimeError, ValueError)):
            raise
        raise StackError(
            f"cannot download {artifact.coordinates}: {_first_line(error)}; the first start needs "
            "the network (set HTTPS_PROXY for a proxy)"
        ) from error
    verify(artifact, path)
    return path


def verify(artifact: Artifact, path: Path) -> None:
    """Raises StackError, and removes the file, when its hash is not the one of the manifest."""
    if (found := _sha256(path)) != artifact.sha256:
        path.unlink()
        raise StackError(
            f"{artifact.coordinates} has sha256 {found}, expected {artifact.sha256}: "
            f"the file was removed, run `kp up` to download it again; the expected hash is in "
            f"{MANIFEST}"
        )


def _maven_artifact(artifact: Artifact, folder: Path, advance: Callable[[int], None]) -> Any:
    from jgo.maven import MavenContext, PythonResolver  # slow to import

    @contextmanager
    def report(_name: str, _size: int) -> Iterator[Callable[[int], None]]:
        yield advance

    context = MavenContext(
        resolver=PythonResolver(progress_callback=report), repo_cache=folder, timeout=30
    )
    group, name, version, packaging = artifact.coordinates.split(":")
    return context.project(group, name).at_version(version).artifact(packaging=packaging)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(server: Distribution, files: list[Path], into: Path) -> None:
    """Fill an empty folder with the server, without the archive's top folder."""
    _UNPACK[server.name](files, into)


def _unpack_kafka(files: list[Path], into: Path) -> None:
    for file in files:
        shutil.copy(file, into)


def _unpack_mysql(files: list[Path], into: Path) -> None:
    with zipfile.ZipFile(files[0]) as jar:
        archive = Path(jar.extract("mysql-Linux-amd64.tar.gz", into))
    _untar(archive, into)
    archive.unlink()


def _unpack_elasticsearch(files: list[Path], into: Path) -> None:
    with zipfile.ZipFile(files[0]) as archive:
        for member in archive.infolist():
            path = Path(archive.extract(member, into))
            path.chmod(0o755 if member.is_dir() else (member.external_attr >> 16) & 0o777)
    _strip_top_folder(into)


def _unpack_trino(files: list[Path], into: Path) -> None:
    _untar(files[0], into)
    _strip_top_folder(into)
    # Only after unpacking: jars that plugins share are hard links to one of them.
    for plugin in (into / "plugin").iterdir():
        if plugin.name not in TRINO_PLUGINS:
            shutil.rmtree(plugin)


def _untar(archive: Path, into: Path) -> None:
    """tar(1) needs 6 s for the 0.9 GB of Trino; tarfile decompresses in Python."""
    command = ["tar", "-xzf", str(archive), "-C", str(into), "--no-same-owner"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        cause = result.stderr.strip().splitlines()[-1]
        raise StackError(
            f"cannot unpack {archive.name} in KP_CACHE: {cause}; free space or set another folder"
        )


def _strip_top_folder(folder: Path) -> None:
    (top,) = folder.iterdir()
    for entry in top.iterdir():
        entry.rename(folder / entry.name)
    top.rmdir()


_UNPACK: dict[str, Callable[[list[Path], Path], None]] = {
    "kafka": _unpack_kafka,
    "mysql": _unpack_mysql,
    "elasticsearch": _unpack_elasticsearch,
    "trino": _unpack_trino,
}
