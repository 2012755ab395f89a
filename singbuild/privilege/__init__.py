"""How a build gets to be root: real root, user namespaces, or system calls that are recorded."""
