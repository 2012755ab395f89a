"""The configuration files of the site and the user: which of them gives a setting its value.

``settings`` has the table of all settings, ``reading`` the files. Neither knows what a setting
does to a build.
"""
