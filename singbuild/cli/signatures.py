"""``sign`` and ``verify``: who says what of an image, and whether it is still so."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from singbuild.cli.grammar import Command
from singbuild.cli.parameters import FILE as IMAGE
from singbuild.cli.parameters import document, json_option, quiet_option
from singbuild.errors import UsageError
from singrun.signatures.signers import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from singbuild.console.display import Console
    from singbuild.signatures.image_file import Placed
    from singbuild.signatures.trusted_keys import TrustedKeys
    from singrun.signatures.statement import Signed, Statement


@click.command(
    "sign",
    cls=Command,
    examples=(
        "singbuild sign debian.img",
        "singbuild sign --key ~/.ssh/id_ed25519_sk debian.img",
        "singbuild sign --statement debian.img > s; ssh-keygen -Y sign -n singbuild-image s; "
        "singbuild sign --add s debian.img",
    ),
)
@click.argument("image", type=IMAGE)
@click.option(
    "--key", type=IMAGE, metavar="FILE", help="An SSH key; FILE.pub for one that the agent has."
)
@click.option("--agent", is_flag=True, help="Take the key that the SSH agent has.")
@click.option(
    "--pgp",
    "scheme",
    flag_value="pgp",
    help="Sign a SIF as Apptainer does, with gpg; --key is then the key's id or address.",
)
@click.option(
    "--dsse",
    "scheme",
    flag_value="dsse",
    help="Sign a SIF as Apptainer does with a key file; --key is then a private key in PEM.",
)
@click.option("--statement", is_flag=True, help="Print what is to be signed; sign nothing.")
@click.option(
    "--add", type=IMAGE, metavar="FILE", help="Add FILE.sig, which ssh-keygen made of FILE."
)
@click.option("--remove", is_flag=True, help="Remove all signatures.")
@click.option(
    "-o", "--output", type=IMAGE, metavar="FILE", help="Write the signature to FILE instead."
)
@json_option
def sign_image(
    image: Path,
    key: Path | None,
    agent: bool,
    scheme: str | None,
    statement: bool,
    add: Path | None,
    remove: bool,
    output: Path | None,
    as_json: bool,
) -> int:
    """Sign IMAGE with your SSH key, once its content is verified.

    The signature goes into the image's first kilobyte, or into IMAGE.sig where that has no room.
    Without an option the key is the one that ssh would take. Nothing else of the image changes.
    """
    from singbuild.signatures import signing

    ways = [key or agent or scheme, statement, add, remove]
    if sum(map(bool, ways)) > 1 or (agent and (key or scheme)):
        raise UsageError("of --key, --agent, --statement, --add and --remove only one can be")
    if scheme:
        keys = signing.in_sif(image, key, scheme=scheme)
        if as_json:
            document("sign", image=str(image), scheme=scheme, fingerprints=keys)
        else:
            print(f"{image}: signed with {scheme.upper()} key {', '.join(keys)}, in the SIF")
        return 0
    if remove:
        removed = signing.remove(image, beside=output)
        if as_json:
            document("sign", image=str(image), removed=removed)
        else:
            print(f"{image}: {removed} signature{'s' * (removed != 1)} removed")
        return 0
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    if statement:
        sys.stdout.write(signing.statement_of(image, now).text())
        return 0

    def signed(statement: Statement) -> Signed:
        return signing.added(add, statement) if add else signing.by_key(statement, key, agent=agent)

    placed = signing.sign(image, signed, now, beside=output)
    if as_json:
        document("sign", image=str(image), **signing.as_json(placed))
    else:
        print(_line(image, placed))
    return 0


@click.command(
    "attest-rebuild",
    cls=Command,
    examples=("singbuild attest-rebuild debian.img", "singbuild attest-rebuild --agent tool.sif"),
)
@click.argument("image", type=IMAGE)
@click.option(
    "--key", type=IMAGE, metavar="FILE", help="An SSH key; FILE.pub for one that the agent has."
)
@click.option("--agent", is_flag=True, help="Take the key that the SSH agent has.")
@click.option(
    "-o", "--output", type=IMAGE, metavar="FILE", help="Write the signature to FILE instead."
)
@quiet_option
def attest_rebuild(
    image: Path, key: Path | None, agent: bool, output: Path | None, quiet: bool
) -> int:
    """Build IMAGE again from the recipe and the lock in it; if nothing differs, sign that.

    The signature says "rebuilt", and an image can have those of several people: `singbuild verify`
    counts them. If something differs, the paths are listed, nothing is signed, and the exit
    status is 1. What %files names is looked for in the current directory, and held to the lock.
    """
    from singbuild.console import choice
    from singbuild.signatures import attestation, signing

    if key and agent:
        raise UsageError("of --key and --agent only one can be")
    console = choice.choose(sys.stderr, as_json=False, quiet=quiet)
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")

    def signed(statement: Statement) -> Signed:
        return signing.by_key(statement, key, agent=agent)

    try:
        placed = attestation.attest(image, signed, now, console, beside=output)
    except attestation.FailedError as error:
        return error.status
    print(_line(image, placed))
    return 0


def _line(image: Path, placed: Placed) -> str:
    own = placed.signed
    with_key = f"{own.signature.key_type} {own.signature.fingerprint}"
    return f"{image}: {own.statement.claim} with {with_key}, in {placed.place}"


@click.command(
    "verify",
    cls=Command,
    examples=(
        "singbuild verify debian.img",
        "singbuild verify --signed-by ada@lab.example debian.img",
        "singbuild verify --signers cosign.pub oras://registry.example/lab/tool:1",
    ),
)
@click.argument("image", type=click.Path(), metavar="IMAGE|URI")
@click.option(
    "--signers",
    type=IMAGE,
    multiple=True,
    metavar="FILE",
    help="Somebody in it has to have signed: allowed_signers of ssh-keygen, PGP keys in armor, "
    "or a public key in PEM; repeatable.",
)
@click.option(
    "--revoked",
    type=IMAGE,
    multiple=True,
    metavar="FILE",
    help="Keys that are not accepted: a list, or a KRL of ssh-keygen; repeatable.",
)
@click.option(
    "--signed-by",
    multiple=True,
    metavar="PRINCIPAL",
    help="This signer has to have signed; repeatable.",
)
@click.option(
    "--rebuilds",
    type=click.IntRange(min=0),
    default=0,
    metavar="COUNT",
    help="So many known signers have to have built it again: attest-rebuild.",
)
@click.option(
    "--signatures",
    type=IMAGE,
    metavar="FILE",
    help="Where detached signatures are, if not in IMAGE.sig.",
)
@click.option(
    "--extract",
    type=IMAGE,
    metavar="DIRECTORY",
    help="Write each signature, and what it signs, for ssh-keygen -Y verify.",
)
@json_option
def verify_image(
    image: str,
    signers: tuple[Path, ...],
    revoked: tuple[Path, ...],
    signed_by: tuple[str, ...],
    rebuilds: int,
    signatures: Path | None,
    extract: Path | None,
    as_json: bool,
) -> int:
    """Check that IMAGE is, bit for bit, what was written last, and whose signatures it has.

    The last writer is the build, or `copy`, `import` and their like, which drop signatures.

    Of an image in a registry, docker://NAME or oras://NAME, it checks cosign's signatures and
    attestations, by the keys that --signers names; without a good signature the status is 10.

    Names the first damaged path (status 8). A signature that is not over this image, or by a key
    that is revoked or has expired, or a missing one, is status 10. Signers are known from
    /etc/singbuild/allowed_signers, ~/.config/singbuild/allowed_signers and ~/.ssh/allowed_signers.
    A squashfs or a SIF is written once more, to compare its bytes, where the host has the program.
    """
    from singbuild.console import choice
    from singbuild.signatures import report, signing, trusted_keys

    console = choice.choose(sys.stderr, as_json=False, quiet=True)
    everybody = trusted_keys.load(signers, revoked)
    if "://" in image:
        if rebuilds or signatures or extract:
            raise UsageError("--rebuilds, --signatures and --extract are for files")
        return _verify_remote(image, everybody, console, signed_by, as_json=as_json)
    result = report.examine(
        Path(image),
        everybody,
        beside=signatures,
        required=signed_by,
        signed=bool(signers) and not rebuilds,
        rebuilds=rebuilds,
        report=console,
    )
    if extract:
        signing.extract(Path(image), extract, beside=signatures)
    error = result.error(Path(image))
    if as_json:
        sound = result.sound._asdict() if result.sound else {"files": None, "digest": None}
        document(
            "verify",
            image=image,
            sound=True,
            **sound,
            accepted=not error,
            signatures=[each.as_json() for each in result.findings],
            rebuilds=len(result.rebuilders),
            missing=list(result.missing),
        )
        return error.status if error else 0
    print(f"{image}: sound, {result.sound}" if result.sound else f"{image}: as it was signed")
    for each in result.findings:
        print(f"  {each}")
    if not signers and any(each.status == UNKNOWN for each in result.findings):
        print(f"  who you know stands in {trusted_keys.own_list()}: docs/signatures.md")
    if rebuilders := result.rebuilders:
        count, known_count = len(rebuilders), sum(map(bool, rebuilders.values()))
        print(f"  rebuilt {count} time{'s' * (count != 1)}, {known_count} by known signers")
    if error:
        raise error
    return 0


def _verify_remote(
    uri: str, everybody: TrustedKeys, console: Console, signed_by: Sequence[str], *, as_json: bool
) -> int:
    from singbuild.signatures import remote

    digest, result = remote.examine(
        uri, everybody, console, required=signed_by, signed=bool(everybody.keys)
    )
    error = result.error(uri)
    if as_json:
        document(
            "verify",
            image=uri,
            sound=None,
            digest=digest,
            accepted=not error,
            signatures=[each.as_json() for each in result.findings],
            missing=list(result.missing),
        )
        return error.status if error else 0
    print(f"{uri}: {digest}")
    for each in result.findings:
        print(f"  {each}")
    if error:
        raise error
    return 0


COMMANDS = (sign_image, attest_rebuild, verify_image)
