"""Brings one URL into a store of files, whole and checked, or says in plain words why not.

A store is a directory that builds share, also at the same time::

    SHA256      a whole file, named by its own digest
    KEY.url     where a URL of unknown digest led last, and the validators to ask with
    KEY.part    what has arrived of a file; whoever holds its lock downloads it

Nothing has its final name before it is whole, so a build that is killed leaves at
most a ``.part``, which the next one resumes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import requests
import urllib3.exceptions

from singbuild import __version__
from singbuild.contract import Reporter
from singbuild.errors import HostError
from singbuild.refusals import Refusals, TryAgainError, too_large, wrong_digest
