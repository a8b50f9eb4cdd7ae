"""The files of a policy folder, read once into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from oxyy_proxy.policyfiles.findings import Finding

GATEWAY, MODELS, TEAMS = "gateway", "models", "teams"
SUFFIXES = (".yaml", ".yml")
MAX_FILE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Folder:
    """What one folder held at one instant. `files` is keyed by path relative to it, with `/`.

    `version` is the first 12 hex digits of the SHA-256 of their sorted names and bytes, and of what could not be read.
    """

    path: Path
    files: Mapping[str, bytes]
    problems: tuple[Finding, ...]
    version: str

    def named(self, stem: str) -> str | None:
        """The file of this name in the top level, with either suffix."""
        return next((name for suffix in SUFFIXES if (name := stem + suffix) in self.files), None)

    def teams(self) -> list[str]:
        """The files of the teams, in order."""
        return [name for name in self.files if name.startswith(f"{TEAMS}/")]


def read_folder(path: Path) -> Folder:
    """Reads every policy file; what is missing or unreadable becomes a problem, never an exception."""
    files: dict[str, bytes] = {}
    problems: list[Finding] = []
    if path.is_dir():
        for name in _candidates(path, problems):
            try:
                files[name] = _bytes(path / name)
            except OSError as error:
                problems.append(_problem(name, f"cannot be read: {error.strerror or error}"))
        problems += _misplaced(path, files, problems)
    else:
        problems.append(
            Finding(str(path), 1, 1, "no such folder; expected one with gateway.yaml, models.yaml and teams/")
        )
    return Folder(path, files, tuple(problems), _version(files, problems))


def _candidates(path: Path, problems: list[Finding]) -> Iterator[str]:
    for directory, prefix in ((path, ""), (path / TEAMS, f"{TEAMS}/")):
        try:
            names = sorted(entry.name for entry in directory.iterdir())
        except OSError as error:
            if prefix and isinstance(error, FileNotFoundError):
                continue
            problems.append(_problem(prefix or ".", f"cannot be read: {error.strerror or error}"))
            continue
        for name in names:
            # Hidden files and backups of editors (.#x.yaml, x.yaml~, #x.yaml#, .x.yaml.swp) are not policies.
            if name.startswith(".") or not name.endswith(SUFFIXES):
                continue
            if name.isprintable():
                yield prefix + name
            else:
                problems.append(_problem(prefix + ascii(name), "a file's name must be printable UTF-8"))


def _bytes(file: Path) -> bytes:
    if not file.is_file() and file.exists():
        raise OSError("not a regular file")
    with file.open("rb") as opened:
        raw = opened.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise OSError(f"larger than {MAX_FILE_BYTES} bytes")
    return raw


def _misplaced(path: Path, files: Mapping[str, bytes], problems: list[Finding]) -> Iterator[Finding]:
    seen = {*files, *(problem.file for problem in problems)}
    for stem in (GATEWAY, MODELS):
        if not any(stem + suffix in seen for suffix in SUFFIXES):
            yield _problem(f"{stem}.yaml", "the file is missing")
    stems: dict[str, str] = {}
    for name in files:
        stem = name.rpartition(".")[0]
        if "/" not in name and stem not in (GATEWAY, MODELS):
            yield _problem(name, "unexpected file; allowed here: gateway.yaml, models.yaml and the folder teams/")
        elif stem in stems:
            yield _problem(name, f"stands beside {stems[stem]}; keep one of the two")
        stems.setdefault(stem, name)
    if not any(name.startswith(f"{TEAMS}/") for name in seen):
        missing = "no team file in it" if (path / TEAMS).is_dir() else "the folder is missing"
        yield _problem(f"{TEAMS}/", f"{missing}; expected one file per team, such as teams/search.yaml")


def _problem(file: str, message: str) -> Finding:
    return Finding(file, 1, 1, message)


def _version(files: Mapping[str, bytes], problems: list[Finding]) -> str:
    digest = hashlib.sha256()
    for part in [*sorted(files.items()), *((str(problem), b"") for problem in problems)]:
        # Lengths keep one file's end from passing for another one's beginning.
        digest.update(f"{len(part[0])}:{part[0]}:{len(part[1])}:".encode("utf-8", "surrogateescape"))
        digest.update(part[1])
    return digest.hexdigest()[:12]
