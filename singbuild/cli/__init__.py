"""The command line of singbuild: words in, calls of the engine, exit statuses out."""
