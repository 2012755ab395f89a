"""Bootstrap: zypper. SUSE's distributions from their repositories, as yum has others."""

from __future__ import annotations

from singbuild_yum import zypper
from singbuild_yum.backend import RpmBackend

backend = RpmBackend(zypper, without=("Excludes", "SetOpt", "Releasever"))
