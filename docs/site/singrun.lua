-- Lmod module file: save as MODULEPATH/singrun/VERSION.lua
help([[singrun runs programs in container images as you. See: singrun --help]])
whatis("Containers for users: singrun exec IMAGE COMMAND")

-- Where the cache lies is said in one place only, /etc/singrun.conf.
local base = "/shared/singrun/" .. myModuleVersion()
prepend_path("PATH", pathJoin(base, "bin"))
