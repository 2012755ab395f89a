"""Features of Dockerfiles, each as a small context; and a base image for them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.docker_images import ContainerImage, archive, directory, file, image, symlink

PASSWD = "root:x:0:0:root:/root:/bin/sh\njoe:x:7:8:joe:/home/joe:/bin/sh\n"
GROUP = "root:x:0:\nstaff:x:8:\ncrew:x:9:joe\n"
APPLETS = [
    "sh", "cat", "chmod", "chown", "cp", "echo", "env", "find", "grep", "head", "id",
    "install", "ln", "ls", "mkdir", "mv", "printf", "pwd", "rm", "rmdir", "sed", "seq",
    "sleep", "sort", "stat", "tail", "tar", "test", "touch", "tr", "true", "false", "wc",
    "sha256sum",
]  # fmt: skip
PACKED = io.BytesIO()
with tarfile.open(fileobj=PACKED, mode="w:gz") as _tar:
    for _name, _owner, _mode in (("in/side", 5, 0o640), ("top", 0, 0o755)):
        _info = tarfile.TarInfo(_name)
        _info.size, _info.mode, _info.uid, _info.gid = 4, _mode, _owner, _owner
        _tar.addfile(_info, io.BytesIO(b"data"))

FILES = {
    "a.txt": b"a\n",
    "b.txt": b"b\n",
    "run.sh": b"#!/bin/sh\necho ran > /ran\n",
    "d/one": b"1\n",
    "d/two.log": b"2\n",
    "d/deep/er/three": b"3\n",
    "d/.hidden": b"h\n",
    "with space.txt": b"s\n",
    "x.tar.gz": PACKED.getvalue(),
}
LINKS = {"link": "a.txt", "d/inner": "one", "dirlink": "d"}
EXECUTABLE = ("run.sh",)


@dataclass(frozen=True)
class Feature:
    """One feature. text: the Dockerfile, with {base} for the image; files: more of the context;
    plain: the same for a builder that knows no here-documents.
    """

    name: str
    text: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    secret: bool = False
    plain: str = ""

    def __str__(self) -> str:
        return self.name


def base_image() -> ContainerImage:
    """Return an image with a shell, users, a configuration and triggers of its own."""
    busybox = Path("/usr/bin/busybox").read_bytes()
    layer = archive(
        directory("bin"),
        file("bin/busybox", busybox, mode=0o755),
        *(symlink(f"bin/{name}", "busybox") for name in APPLETS),
        *(
            directory(name)
            for name in ("dev", "proc", "sys", "home", "etc", "var", "run", "run/secrets", "srv")
        ),
        directory("root", mode=0o700),
        directory("home/joe", uid=7, gid=8),
        directory("tmp", mode=0o1777),
        directory("var/tmp", mode=0o1777),
        file("etc/passwd", PASSWD.encode()),
        file("etc/group", GROUP.encode()),
        # What buildah itself puts into a tree that it runs a program in is there already.
        *(file(f"etc/{name}", b"") for name in ("hosts", "resolv.conf", "localtime")),
        file("etc/hostname", b"", mode=0o755),
        directory("srv/old", mode=0o750, uid=7, gid=8),
        file("srv/old/file", b"old\n", mode=0o600),
        symlink("srv/way", "old"),
    )
    return image(layer).configured(CONFIG)


CONFIG = {
    "Env": ["PATH=/bin", "FROM_BASE=yes"],
    "Cmd": ["/bin/echo", "base"],
    "Labels": {"base": "label"},
    "WorkingDir": "/srv",
}
TRIGGERS = ["COPY a.txt /triggered", "ENV TRIGGERED=1"]


def context(where: Path, feature: Feature, base: str, triggered: str) -> Path:
    """Write a feature's context; return its Dockerfile."""
    for name, data in {**FILES, **feature.files}.items():
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o755 if name in EXECUTABLE else 0o644)
    for name, target in LINKS.items():
        (where / name).symlink_to(target)
    for name, text in (("Dockerfile", feature.text), ("plain.Dockerfile", feature.plain)):
        if text:
            content = text.replace("{base}", base).replace("{triggered}", triggered)
            (where / name).write_text(content)
    return where / "Dockerfile"


FEATURES = (
    Feature("RUN shell form", "FROM {base}\nRUN echo $FROM_BASE > out && pwd >> out\n"),
    Feature("RUN exec form", 'FROM {base}\nRUN ["/bin/sh", "-c", "echo $0 > /out", "zero"]\n'),
    Feature("RUN continued", "FROM {base}\nRUN echo one \\\n  # comment\n\n  two \\\n  > /out\n"),
    Feature(
        "RUN here-document",
        "FROM {base}\nRUN <<EOF\nA=1\necho $A > /out\nmkdir /made\nEOF\n",
        plain="FROM {base}\nRUN A=1; echo $A > /out; mkdir /made\n",
    ),
    Feature(
        "RUN here-document with tabs",
        "FROM {base}\nRUN <<-EOF\n\techo tabs > /out\n\tEOF\n",
        plain="FROM {base}\nRUN echo tabs > /out\n",
    ),
    Feature(
        "RUN here-document with #!",
        "FROM {base}\nRUN <<EOF\n#!/bin/cat\necho\nEOF\nRUN <<EOF\n#!/bin/sh -e\n"
        "echo 1 > /o\nEOF\n",
        plain="FROM {base}\nRUN true\nRUN echo 1 > /o\n",
    ),
    Feature(
        "RUN of a program with input",
        "FROM {base}\nRUN cat <<EOF > /out\nline $FROM_BASE\nEOF\n",
        plain="FROM {base}\nRUN echo line $FROM_BASE > /out\n",
    ),
    Feature(
        "RUN quoted document",
        "FROM {base}\nRUN cat <<'EOF' > /out\nline $FROM_BASE\nEOF\n",
        plain="FROM {base}\nRUN echo 'line $FROM_BASE' > /out\n",
    ),
    Feature(
        "RUN owners and modes",
        "FROM {base}\nRUN mkdir /o && touch /o/f && chown joe:crew /o/f && "
        "chmod 4711 /o/f && ln /o/f /o/g"
        " && ln -s f /o/l && chmod 2775 /o\n",
    ),
    Feature(
        "RUN removes", "FROM {base}\nRUN rm -r /srv/old && mkdir /srv/old && touch /srv/old/new\n"
    ),
    Feature(
        "RUN cache mount",
        "FROM {base}\nRUN --mount=type=cache,target=/srv/cache echo 1 > /srv/cache/f && "
        "cp /srv/cache/f /srv/g\n",
    ),
    Feature(
        "RUN secret mount",
        "FROM {base}\n"
        "RUN --mount=type=secret,id=token cat /run/secrets/token | wc -c > /srv/length\n",
        secret=True,
    ),
    Feature(
        "RUN bind mount of the context",
        "FROM {base}\nRUN --mount=type=bind,source=d,target=/mnt cp /mnt/one /srv/copied\n",
    ),
    Feature(
        "RUN bind mount of a stage",
        "FROM {base} AS made\nRUN echo made > /made\nFROM {base}\n"
        "RUN --mount=type=bind,from=made,source=/,target=/mnt cat /mnt/made > /srv/copied\n",
    ),
    Feature(
        "RUN tmpfs mount",
        "FROM {base}\nRUN --mount=type=tmpfs,target=/mnt touch /mnt/x && ls /mnt > /l\n",
    ),
    Feature(
        "COPY a file",
        "FROM {base}\nCOPY a.txt /srv/renamed\nCOPY b.txt /srv/old/\nCOPY a.txt new/dir/\n",
    ),
    Feature("COPY a directory", "FROM {base}\nCOPY d /srv/d\nCOPY d/deep /srv/old\n"),
    Feature("COPY relative", "FROM {base}\nWORKDIR sub\nCOPY a.txt .\nCOPY a.txt b.txt ./two/\n"),
    Feature(
        "COPY globs",
        "FROM {base}\nCOPY *.txt /srv/t/\nCOPY d/[ot]* /srv/g/\nCOPY d/dee?/ /srv/q/\n",
    ),
    Feature("COPY exec form", 'FROM {base}\nCOPY ["with space.txt", "/srv/with space/"]\n'),
    Feature(
        "COPY --chown",
        "FROM {base}\nCOPY --chown=joe a.txt d /srv/c/\nCOPY --chown=5:crew b.txt /srv/b\n",
    ),
    Feature("COPY --chmod", "FROM {base}\nCOPY --chmod=0751 a.txt run.sh /srv/m/\n"),
    Feature("COPY a link", "FROM {base}\nCOPY link /srv/l\nCOPY dirlink /srv/dl\n"),
    Feature("COPY over a link", "FROM {base}\nCOPY a.txt /srv/way/\n"),
    Feature(
        "COPY --from a stage",
        "FROM {base} AS one\nRUN mkdir /m && echo 1 > /m/f && chown -R joe /m && ln -s f /m/l\n"
        "FROM {base}\nCOPY --from=one /m /srv/m\nCOPY --from=0 --chown=0:0 /m/f /srv/f\n",
    ),
    Feature("COPY --from an image", "FROM {base}\nCOPY --from={base} /srv/old/file /srv/f\n"),
    Feature(
        "COPY a document",
        "FROM {base}\nARG W=word\nCOPY <<EOF /srv/doc\nhello $W\nEOF\n",
        {"doc": b"hello word\n"},
        plain="FROM {base}\nCOPY doc /srv/doc\n",
    ),
    Feature("ADD a tar archive", "FROM {base}\nADD x.tar.gz /srv/x/\nADD a.txt /srv/\n"),
    Feature(
        ".dockerignore",
        "FROM {base}\nCOPY . /srv/all/\n",
        {
            ".dockerignore": b"# none\n**/*.log\n*Dockerfile\n.dockerignore\n"
            b"d/deep\n!d/deep/er/three\n*.gz\n",
        },
    ),
    Feature(
        "ENV",
        'FROM {base}\nENV A=1 B="two words" C=$A-$FROM_BASE\nENV D the old form\n'
        'RUN echo "$B $C $D" > /o\n',
    ),
    Feature(
        "variables with defaults",
        "FROM {base}\nENV N= S=set\n"
        "ENV A=${S:-x} B=${U:-x} C=${S:+y} D=${U:+y} E=\\$S F='$S' G=${N:-e}\n",
    ),
    Feature(
        "ARG",
        "ARG WHICH={base}\nFROM $WHICH\nARG A=default\nARG GIVEN=no\nARG NONE\n"
        "RUN echo $A $GIVEN $NONE > /o\nLABEL a=$A\n",
        arguments=("GIVEN=yes",),
    ),
    Feature(
        "ENV wins over ARG",
        "FROM {base}\nARG X=arg\nENV X=env\nRUN echo $X > /o\nLABEL x=$X\n",
        arguments=("X=given",),
    ),
    Feature("WORKDIR", "FROM {base}\nENV P=/srv/w\nWORKDIR $P\nWORKDIR x/y\nRUN pwd > /o\n"),
    Feature(
        "USER",
        "FROM {base}\nRUN chmod 777 /srv\nUSER joe\nRUN id -un > /srv/id && touch /srv/mine\n"
        "USER 5:9\nRUN touch /srv/other\n",
    ),
    Feature("ENTRYPOINT and CMD", 'FROM {base}\nENTRYPOINT ["/bin/echo", "e"]\nCMD ["c"]\n'),
    Feature("ENTRYPOINT alone", 'FROM {base}\nENTRYPOINT ["/bin/echo"]\n'),
    Feature("CMD shell form", "FROM {base}\nCMD echo $HOME\n"),
    Feature("LABEL", 'FROM {base}\nLABEL one=1 "two words"="three four"\nLABEL multi="a \\\nb"\n'),
    Feature("SHELL", 'FROM {base}\nSHELL ["/bin/sh", "-e", "-c"]\nRUN echo $- > /o\n'),
    Feature(
        "told of",
        "FROM {base}\nEXPOSE 80 53/udp\nVOLUME /srv/old\nSTOPSIGNAL SIGINT\n"
        'HEALTHCHECK CMD ["/bin/true"]\n',
    ),
    Feature("ONBUILD of the base", "FROM {triggered}\nRUN echo $TRIGGERED > /o\n"),
    Feature(
        "ONBUILD of a stage",
        "FROM {base} AS one\nONBUILD RUN echo built > /onbuild\nFROM one\nRUN cat /onbuild > /o\n",
    ),
    Feature(
        "FROM a stage",
        "FROM {base} AS one\nENV A=1\nRUN echo 1 > /one\nFROM one AS two\n"
        "RUN echo $A > /two\nFROM two\nWORKDIR /x\n",
    ),
    Feature("FROM --platform", "FROM --platform=linux/amd64 {base}\nRUN echo 1 > /o\n"),
    Feature(
        "FROM scratch",
        "FROM {base} AS one\nFROM scratch\nCOPY --from=one /bin/busybox /bin/busybox\n"
        "COPY a.txt /\n",
    ),
    Feature("escape directive", "# escape=`\nFROM {base}\nRUN echo one `\n two > /o\n"),
    Feature("small letters", "from {base} as one\nrun echo 1 > /o\n"),
)
