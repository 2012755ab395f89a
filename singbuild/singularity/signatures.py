"""``sign`` and ``verify``: the signatures in a SIF, as Apptainer makes and checks them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from singbuild.errors import ImageError, SingbuildError
from singbuild.singularity.messages import INFO
from singbuild.singularity.sif import TYPES
from singrun.images.sif import GROUP

if TYPE_CHECKING:
    from singbuild.signatures import sif_file
    from singbuild.signatures.finding import Finding
    from singbuild.signatures.trusted_keys import TrustedKeys

_KEYRINGS = (".apptainer/keys/pgp-public", ".singularity/sypgp/pgp-public")  # below the home
_ROW = "{:<4}|{:<8}|{:<8}|{}"


@click.command(
    "sign",
    epilog="\b\nExamples:\n  singularity sign a.sif\n  singularity sign --key ada.key a.sif\n",
)
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--key", type=click.Path(path_type=Path), help="A private key in PEM, in the place of gpg's."
)
@click.option("-a", "--all", is_flag=True, help="Every group of objects, which is the default.")
@click.pass_obj
def sign(quiet: bool, /, image: Path, key: Path | None, **_: bool) -> int:
    """Sign IMAGE, a SIF, with the default key of gpg, or with a key file."""
    from singbuild.signatures import image_file, sif_signatures

    key = key or _named("SIGN")
    with image_file.opened(image, write=True) as file:
        _say(f"Signing image with {_material(key)}", quiet=quiet)
        sif_signatures.sign(file, key, scheme="dsse" if key else "pgp")
    _say(f"Signature created and applied to image '{image}'", quiet=quiet)
    return 0


@click.command(
    "verify",
    epilog="\b\nExamples:\n  singularity verify a.sif\n  singularity verify --key ada.pem a.sif\n",
)
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--key", type=click.Path(path_type=Path), help="A public key in PEM, in the place of gpg's."
)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-a", "--all", is_flag=True, help="Every group of objects, which is the default.")
@click.option("-l", "--local", is_flag=True, help="Ask no server of keys; none ever is asked.")
@click.pass_obj
def verify(quiet: bool, /, image: Path, key: Path | None, as_json: bool, **_: bool) -> int:
    """Check that each group of objects of IMAGE, a SIF, has a good signature."""
    from singbuild.signatures import image_file, sif_file, sif_signatures
    from singrun.signatures import signers

    key = key or _named("VERIFY")
    _say(f"Verifying image with {_material(key)}", quiet=quiet)
    with image_file.opened(image) as file:
        if not sif_file.is_sif(file.boot):
            raise _failed("invalid SIF magic")
        sif = sif_file.SifFile(str(image), file.fd)
        signed = {group for group, _ in sif.signatures()}
        missing = [group for group in sif.groups if group not in signed]
        rows = sif_signatures.findings(file, _trust(key), any_group=True)
        if not key and any(row.status == signers.UNKNOWN for row in rows):
            # Not all keys are in gpg's keyring; Apptainer has one of its own.
            more = replace(_trust(None), keyrings=_own_keyrings())
            others = sif_signatures.findings(file, more, any_group=True)
            rows = [
                o if r.status == signers.UNKNOWN else r for r, o in zip(rows, others, strict=True)
            ]
    bad = next((row.reason for row in rows if row.status != signers.GOOD), "")
    if missing:
        bad = f"integrity: signature not found for object group {missing[0] & ~GROUP}"
    elif not sif.groups:
        bad = "integrity: no groups found"
    objects = [] if bad else [row for group in sif.groups for row in sif.members(group)]
    if as_json:
        print(json.dumps(_as_json(rows, objects), indent=2))
    elif not bad:
        for row in rows:
            if row.scheme == "pgp":
                print(f"{'[LOCAL]':<18} Signing entity: {row.principals[0]}")
                print(f"{'[LOCAL]':<18} Fingerprint: {row.fingerprint}")
        print("Objects verified:", _ROW.format("ID", "GROUP", "LINK", "TYPE"), "-" * 48, sep="\n")
        for each in objects:
            print(_ROW.format(each.id, each.group & ~GROUP, "NONE", _type(each)))
    if bad:
        raise _failed(bad)
    _say(f"Verified signature(s) from image '{image}'", quiet=quiet)
    return 0


def _as_json(findings: list[Finding], objects: list[sif_file.Row]) -> dict[str, object]:
    rows = [
        {
            "Signer": {
                "Partition": _type(each),
                "Name": finding.principals[0] if finding.scheme == "pgp" else "unknown",
                "Fingerprint": finding.fingerprint.lower() if finding.scheme == "pgp" else "",
                "KeyLocal": finding.scheme == "pgp",
                "KeyCheck": finding.scheme == "pgp",
                "DataCheck": True,
            }
        }
        for finding in findings
        for each in objects
    ]
    return {"Signatures": len(findings) if rows else 0, "SignerKeys": rows or None}


def _type(row: sif_file.Row) -> str:
    return TYPES.get(row.kind, "Unknown data-type")


def _trust(key: Path | None) -> TrustedKeys:
    from singbuild.signatures import trusted_keys

    return trusted_keys.load([key] if key else [], [])


def _own_keyrings() -> list[Path]:
    return [ring for name in _KEYRINGS if (ring := Path.home() / name).is_file()]


def _named(what: str) -> Path | None:
    """Return the key that the environment names. what: SIGN or VERIFY."""
    names = (f"APPTAINER_{what}_KEY", f"SINGULARITY_{what}_KEY")
    return next((Path(os.environ[name]) for name in names if os.environ.get(name)), None)


def _material(key: Path | None) -> str:
    return f"key material from '{key}'" if key else "PGP key material"


def _failed(why: str) -> SingbuildError:
    return ImageError(f"Failed to verify container: {why}")


def _say(text: str, *, quiet: bool) -> None:
    if not quiet:
        click.echo(f"{INFO}{text}", err=True)
