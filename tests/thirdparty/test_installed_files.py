"""What an installation has beside Python: man pages, and completion for each command."""

from __future__ import annotations

import pytest

from tests.thirdparty.conftest import Elsewhere

# pip fetches what builds the wheel; one worker has the environment.
pytestmark = [pytest.mark.network, pytest.mark.xdist_group("elsewhere")]


def test_man_finds_the_pages_and_bash_the_completion(elsewhere: Elsewhere) -> None:
    share = elsewhere.bin.parent / "share"
    for name in ("singbuild", "singrun"):
        page = (share / f"man/man1/{name}.1").read_text()
        assert f".SH NAME\n{name} \\- " in page
    for name in ("singbuild", "singrun", "singularity", "apptainer"):
        assert (share / f"bash-completion/completions/{name}").is_file()
        assert (share / f"zsh/site-functions/_{name}").is_file()
        assert (share / f"fish/vendor_completions.d/{name}.fish").is_file()
    for name in ("singbuild.conf", "singrun.conf", "singbuild-recipe"):
        assert (share / f"man/man5/{name}.5").is_file()
