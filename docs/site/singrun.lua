-- Lmod module file: save as MODULEPATH/singrun/VERSION.lua
help([[singrun runs programs in container images as you. See: singrun --help]])
whatis("Containers for users: singrun exec IMAGE COMMAND")

local base = "/shared/singrun/" .. myModuleVersion()
prepend_path("PATH", pathJoin(base, "bin"))
setenv("SINGRUN_CACHEDIR", pathJoin("/var/tmp", "singrun-" .. capture("id -u"):gsub("%s", "")))
