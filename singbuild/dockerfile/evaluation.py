"""What the instructions of one stage mean, once the base image's configuration is known.

    instructions + configuration ─▶ actions on the tree, in order, and the new configuration

A configuration is the object ``config`` of the OCI image specification, "config.md".
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from singbuild.dockerfile import loading, reader, variables
from singbuild.dockerfile.actions import (
    TRIGGER,
    Action,
    Copy,
    Evaluation,
    Mount,
    Run,
    Workdir,
    stages_of,
)
from singbuild.errors import RecipeError
from singbuild.recipe.recipe import Document, Instruction, Recipe

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHELL = ("/bin/sh", "-c")
_LISTS = ("Cmd", "Entrypoint", "Env", "OnBuild", "Shell")
_TABLES = ("ExposedPorts", "Healthcheck", "Labels", "Volumes")
_WORDS = ("StopSignal", "User", "WorkingDir")
_FLAGS = {  # those that COPY and ADD share, and each one's own
    "": {"from", "chown", "chmod", "link", "exclude"},
    "COPY": {"parents"},
    "ADD": {"checksum"},
}
_CHECKSUM = re.compile("sha256:[0-9a-f]{64}")
_GIT = re.compile(r"(git@|git://|ssh://|https?://[^?#]*\.git([?#]|$))")
_SHORT = {"dst": "target", "destination": "target", "src": "source", "ro": "readonly"}
_NUMBERS = {"mode": "[0-7]{1,5}", "uid": r"[0-3]?\d{1,9}", "gid": r"[0-3]?\d{1,9}"}  # of a mount
INEFFECTIVE = {
    "EXPOSE": "a container has the host's network",
    "VOLUME": "the directory is one of the image's; bind one over it with --bind",
    "STOPSIGNAL": "whoever stops a program chooses its signal",
    "HEALTHCHECK": "nobody watches a container",
}


def evaluate(
    recipe: Recipe, base: Mapping[str, Any], arch: str, tell: Callable[[str], None]
) -> Evaluation:
    """Evaluate a stage. base: its base image's configuration. Raises RecipeError.

    tell: gets a line for each instruction that has no effect here.
    """
    return _Evaluator(recipe, base, arch, tell).evaluated()


class _Evaluator:
    """Goes through one stage."""

    def __init__(
        self, recipe: Recipe, base: Mapping[str, Any], arch: str, tell: Callable[[str], None]
    ) -> None:
        self._recipe, self._tell = recipe, tell
        # A stranger may have made it: values of other types than the specification's are dropped.
        self._config: dict[str, Any] = {
            key: value for key, value in base.items() if value and _has_shape(key, value)
        }
        self._triggers = _texts(self._config.pop("OnBuild", None))
        self._env = dict(
            each.split("=", 1) for each in _texts(self._config.get("Env")) if "=" in each
        )
        # BuildKit has the same for an image that sets none: util/system/path.go,
        # DefaultPathEnvUnix.
        self._env.setdefault("PATH", DEFAULT_PATH)
        self._args: dict[str, str] = {}
        # ENV wins over an ARG of its name: Dockerfile reference, "Using ARG variables".
        self._values = variables.Values(self._env, self._args)
        self._escape = reader.escape(recipe.source)
        self._platform = loading.platform_variables(arch)
        self._own_command = self._in_trigger = False
        self._actions: list[Action] = []
        self._first = 0  # of the actions that the stage itself asks for

    def evaluated(self) -> Evaluation:
        line = self._recipe.headers[0].line
        self._in_trigger = True
        for text in self._triggers:
            self._do(reader.trigger(self._recipe.source, line, text))
        self._in_trigger, self._first = False, len(self._actions)
        for each in self._recipe.instructions:
            self._do(each)
        self._config["Env"] = [f"{name}={value}" for name, value in self._env.items()]
        return Evaluation(tuple(self._actions), self._config)

    def _do(self, each: Instruction) -> None:
        method: Callable[[Instruction], None] = getattr(self, f"do_{each.keyword.lower()}")
        try:
            method(each)
        except variables.MalformedError as error:
            raise self._error(each, str(error)) from error
        if each.keyword in INEFFECTIVE:
            self._tell(
                f"{self._recipe.path}:{each.line}: {each.keyword} is kept in the configuration "
                f"and has no effect here: {INEFFECTIVE[each.keyword]}"
            )

    # ── what changes the tree ────────────────────────────────────────────────

    def do_run(self, each: Instruction) -> None:
        for name, value in each.flags:
            if name == "network" and value in ("", "default", "host", "none"):
                continue
            if name != "mount":
                raise self._error(
                    each, f"RUN --{name}={value} is not supported", remedy="Leave the flag out."
                )
        words, script = reader.words_of_json(each.rest), ""
        if words is None:
            text = _with_documents(each)
            alone = re.fullmatch(r"<<-?(?:(['\"])[^'\"]+\1|\w+)", each.rest)
            if alone and each.documents:
                text = each.documents[0].text
                script = text if text.startswith("#!") else ""
            words = [*self._shell(), text]
        mounts = tuple(self._mount(each, value) for value in each.values("mount"))
        args = {name: value for name, value in self._args.items() if name not in self._env}
        env = {**args, **self._env}
        self._act(
            Run,
            each,
            argv=tuple(words),
            environment=env,
            mounts=mounts,
            script=script,
            is_offline=each.flag("network") == "none",
        )

    def _mount(self, each: Instruction, value: str) -> Mount:
        parts = dict([*part.split("=", 1), "true"][:2] for part in value.split(",") if part)
        # What "from" names has been looked up, and filled, when the stages were.
        fields = {k: text if k == "from" else self._filled(text) for k, text in parts.items()}
        kind = fields.pop("type", "bind")
        for short, name in _SHORT.items():
            if short in fields:
                fields[name] = fields.pop(short)
        if kind not in ("bind", "cache", "secret", "tmpfs"):
            raise self._error(
                each,
                f"RUN --mount=type={kind} is not supported",
                remedy="There are bind, cache, secret and tmpfs.",
            )
        if kind != "secret" and not fields.get("target"):
            raise self._error(
                each, f"RUN --mount=type={kind} has no target", remedy="Write target=PATH."
            )
        if target := fields.get("target"):
            fields["target"] = posixpath.normpath(posixpath.join(self._directory(), target))
        if fields.get("target") == "/":
            raise self._error(
                each, f"RUN --mount=type={kind} has the target /", remedy="Write one below it."
            )
        for name, digits in _NUMBERS.items():
            if name in fields and not re.fullmatch(digits, fields[name], re.ASCII):
                raise self._error(
                    each,
                    f"RUN --mount=type={kind},{name}={fields[name]} is no {name}",
                    remedy="Write for instance mode=0755, uid=1000 and gid=1000.",
                )
        return Mount(kind, fields)

    def do_copy(self, each: Instruction) -> None:
        for name, value in each.flags:
            if each.keyword == "ADD" and name == "keep-git-dir":
                raise self._no_git(each)
            if name not in _FLAGS[""] | _FLAGS[each.keyword]:
                raise self._error(
                    each,
                    f"{each.keyword} --{name}={value} is not supported",
                    remedy="Leave it out.",
                )
        words = reader.words_of_json(each.rest)
        words = self._words(each) if words is None else [self._filled(word) for word in words]
        if len(words) < 2:
            raise self._error(each, f"{each.keyword} has sources and a destination")
        *sources, destination = words
        if each.keyword == "ADD" and any(map(_GIT.match, sources)):
            raise self._no_git(each)
        checksum = self._filled(each.flag("checksum"))
        has_checksum = any(name == "checksum" for name, _ in each.flags)
        # One of an empty variable would check nothing.
        if has_checksum and not _CHECKSUM.fullmatch(checksum):
            what = f"ADD --checksum={checksum} is no checksum"
            remedy = "Write --checksum=sha256: and 64 digits, 0 to 9 and a to f."
            raise self._error(each, what, remedy=remedy)
        names = {document.name for document in each.documents}
        documents = tuple(
            document
            if document.literal
            else Document(document.name, variables.filled_document(document.text, self._values))
            for document in each.documents
        )
        if len(sources) > 1 and not destination.endswith("/") and destination not in (".", ".."):
            raise self._error(
                each,
                f"{each.keyword} of several sources needs a directory",
                remedy=f"Write {destination}/",
            )
        self._act(
            Copy,
            each,
            sources=tuple(
                s for s in sources if not (s.startswith("<<") and s.strip("<-'\"") in names)
            ),
            destination=destination,
            stage=each.flag("from"),
            owner=self._filled(each.flag("chown")),
            mode=self._filled(each.flag("chmod")),
            documents=documents,
            exclude=tuple(each.values("exclude")),
            checksum=checksum,
            keeps_parents=any(name == "parents" and value != "false" for name, value in each.flags),
        )

    do_add = do_copy

    def do_workdir(self, each: Instruction) -> None:
        path = self._filled(each.rest)
        self._config["WorkingDir"] = posixpath.normpath(posixpath.join(self._directory(), path))
        self._act(Workdir, each)

    def _act(self, kind: type[Action], each: Instruction, **more: Any) -> None:
        word = TRIGGER if self._in_trigger else each.keyword.lower()
        name = f"{word}-{len(self._actions) + 1 - self._first}"
        user = str(self._config.get("User", ""))
        action = kind(name, each, user, self._directory(), **more)
        if self._in_trigger and (names := [*stages_of(action)]):
            raise self._error(
                each,
                f"the base's ONBUILD {each.keyword} reads another stage or image, {names[0]}: "
                "that is not supported",
                remedy="Begin with an image without that trigger, and write the instruction here.",
            )
        self._actions.append(action)

    # ── what changes the configuration ───────────────────────────────────────

    def do_env(self, each: Instruction) -> None:
        for name, value in self._pairs(each):
            self._env[name] = value

    def do_label(self, each: Instruction) -> None:
        labels = dict(self._config.get("Labels") or {})
        self._config["Labels"] = labels | dict(self._pairs(each))

    def do_arg(self, each: Instruction) -> None:
        for name, default in loading.arguments_of(each.rest, self._values, self._escape):
            global_scope = {**self._recipe.globals, **self._platform}
            value = self._recipe.arguments.get(
                name, global_scope.get(name) if default is None else default
            )
            if value is not None:
                self._args[name] = str(value)

    def do_user(self, each: Instruction) -> None:
        self._config["User"] = self._filled(each.rest)

    def do_cmd(self, each: Instruction) -> None:
        self._config["Cmd"] = self._command(each)
        self._own_command = True

    def do_entrypoint(self, each: Instruction) -> None:
        self._config["Entrypoint"] = self._command(each)
        if not self._own_command:  # the base image's is for another program
            self._config.pop("Cmd", None)

    def do_shell(self, each: Instruction) -> None:
        words = reader.words_of_json(each.rest)
        if not words:
            raise self._error(each, "SHELL is a list", remedy='Write SHELL ["/bin/bash", "-c"].')
        self._config["Shell"] = words

    def do_expose(self, each: Instruction) -> None:
        ports = dict(self._config.get("ExposedPorts") or {})
        for word in self._words(each):
            ports[word if "/" in word else f"{word}/tcp"] = {}
        self._config["ExposedPorts"] = ports

    def do_volume(self, each: Instruction) -> None:
        words = reader.words_of_json(each.rest) or self._words(each)
        self._config["Volumes"] = dict(self._config.get("Volumes") or {}) | {w: {} for w in words}

    def do_stopsignal(self, each: Instruction) -> None:
        self._config["StopSignal"] = self._filled(each.rest)

    def do_healthcheck(self, each: Instruction) -> None:
        kind, _, rest = each.rest.partition(" ")
        words = reader.words_of_json(rest.strip())
        test = (
            ["NONE"]
            if kind.upper() == "NONE"
            else (["CMD", *words] if words else ["CMD-SHELL", rest])
        )
        self._config["Healthcheck"] = {"Test": test}

    def do_onbuild(self, each: Instruction) -> None:
        text = _with_documents(each)
        reader.trigger(self._recipe.source, each.line, text)
        self._config.setdefault("OnBuild", []).append(text)

    def do_maintainer(self, each: Instruction) -> None:
        self._tell(f"{self._recipe.path}:{each.line}: MAINTAINER is old: LABEL says such things")

    # ── what the others need ─────────────────────────────────────────────────

    def _filled(self, text: str) -> str:
        return variables.filled(text, self._values, self._escape)

    def _words(self, each: Instruction) -> list[str]:
        return variables.words(each.rest, self._values, self._escape)

    def _pairs(self, each: Instruction) -> list[tuple[str, str]]:
        return variables.pairs(each.rest, self._values, self._escape)

    def _directory(self) -> str:
        return str(self._config.get("WorkingDir") or "/")

    def _shell(self) -> Sequence[str]:
        return _texts(self._config.get("Shell")) or SHELL

    def _command(self, each: Instruction) -> list[str]:
        words = reader.words_of_json(each.rest)
        return [*self._shell(), each.rest] if words is None else words

    def _no_git(self, each: Instruction) -> RecipeError:
        what = "ADD of a git repository is not supported"
        return self._error(each, what, remedy="Clone it in a RUN, or before the build.")

    def _error(self, each: Instruction, what: str, *, remedy: str = "") -> RecipeError:
        return reader.error(self._recipe.source, each, what, remedy=remedy)


def _with_documents(each: Instruction) -> str:
    """Return what an instruction says behind its flags, with its here-documents as written."""
    return each.rest + "".join(f"\n{d.text}{d.name}" for d in each.documents)


def _has_shape(key: str, value: object) -> bool:
    """Whether a value of a base image's configuration has the type that the specification says."""
    if key in _LISTS:
        return isinstance(value, list)
    if key in _TABLES:
        return isinstance(value, dict)
    return reader.is_text(value) if key in _WORDS else True


def _texts(value: object) -> list[str]:
    words = value if isinstance(value, list) else []
    return [word for word in words if reader.is_text(word)]
