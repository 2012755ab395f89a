"""What --help prints."""

HELP = """\
Usage: singrun [-d] VERB [OPTIONS] IMAGE [ARGUMENTS]
       singrun ./IMAGE [ARGUMENTS]            the same as: singrun run ./IMAGE

Runs programs in an image as the calling user. IMAGE is a file that singbuild
made, a bare ext3, a Singularity 2.x or a squashfs image, or a directory.

Verbs:
  exec IMAGE COMMAND...   run a command
  run IMAGE [ARG...]      run the image's runscript
  shell IMAGE [ARG...]    start a shell
  test IMAGE [ARG...]     run the image's test
  env IMAGE               print the variables; --why NAME: which layer set NAME
  doctor                  what this host can do, and what would help; --json

Options (before IMAGE; what follows IMAGE belongs to the command):
  -B, --bind SRC[:DST[:ro]]  show a file or directory of the host; repeatable, commas
  -H, --home [SRC:]DST       another home directory
      --no-home              do not share the home directory
      --no-mount NAME        leave out proc, sys, dev, tmp, home, cwd, hostfs,
                             bind-paths or a path such as /etc/hosts; commas
  -S, --scratch DIR          an empty directory of its own; repeatable, commas
  -W, --workdir DIR          keep --scratch, and --contain's home and /tmp, in DIR
      --pwd DIR              start in DIR inside the image
  -w, --writable             write to the image itself
      --writable-tmpfs       write to memory, gone afterwards
  -o, --overlay PATH[:ro]    write to a directory or ext3 image laid over the image
  -c, --contain              empty home and /tmp, a minimal /dev, no current directory
  -C, --containall           --contain --pid --ipc --cleanenv
  -e, --cleanenv             pass no more of the environment than names user and terminal
      --env NAME=VALUE       set a variable; repeatable
      --env-file FILE        set those in FILE, lines of NAME=VALUE; repeatable
  -p, --pid                  a PID namespace of its own
  -i, --ipc                  an IPC namespace of its own
      --uts                  a host name of its own
      --hostname NAME        that host name
  -s, --shell PATH           the shell to start (verb shell)
      --as-caller            through sudo: as the user who called sudo
      --mount-with HOW       loop, fuse2fs, squashfuse or unpack, not what fits best
      --plan                 print every mount with its reason, and do nothing
  -d, --debug                say on standard error what is done
  -h, --help                 this text
      --version              the version

Exit status: the command's own; 128+N when signal N killed it, as the shell
shows it; 127 command not found, 126 not executable; 255 when singrun itself
could not start it, with the reason on standard error.
"""
