"""squashfs 4.0, read without mounting it, a host program, or privilege; at any offset of a file.

A reader of our own because there is none to lean on: host programs read either at an offset or
with owners, not both, and unpack all for one file; PySquashfsImage has not changed since 2023 and
trusts what it reads; dissect.squashfs is under the AGPL. The format has not changed since 2009.
Sources: Linux, fs/squashfs/squashfs_fs.h; "Squashfs Binary Format", squashfs-tools-ng.
"""
