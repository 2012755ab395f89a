"""What --nv, --rocm and --fabric bring in from the host, as names. docs/runtime.md explains them.

A site adds to these lists, or begins its own, in its file. Of libraries the
first must be there, and of devices any.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from singrun.config import Site

KINDS = ("nv", "rocm", "fabric")
# Libraries that these need come too where the image has none of its own. NVIDIA's need none
# but the C library; only those for graphics need X11, which CUDA does without.
COMPLETE = ("rocm", "fabric")
REMEDIES = {
    "nv": "Run on a node with a GPU and a driver of NVIDIA, or leave --nv out.",
    "rocm": "Run on a node with a GPU of AMD, amdgpu and ROCm, or leave --rocm out.",
    "fabric": "Run on a node with such a network and rdma-core, or leave --fabric out.",
}
# A name goes on after a dot: libcuda.so is libcuda.so.1, too. A path is a pattern, glob(7).
_LISTS = {
    "nv library": "libcuda.so.1 libcuda.so libcudadebugger.so libnvcuvid.so libnvoptix.so"
    " libEGL_nvidia.so libGLESv1_CM_nvidia.so libGLESv2_nvidia.so libGLX_nvidia.so"
    " libnvidia-allocator.so libnvidia-cfg.so libnvidia-compiler.so libnvidia-egl-gbm.so"
    " libnvidia-egl-wayland.so libnvidia-eglcore.so libnvidia-encode.so libnvidia-fbc.so"
    " libnvidia-glcore.so libnvidia-glsi.so libnvidia-glvkspirv.so libnvidia-gpucomp.so"
    " libnvidia-ml.so libnvidia-ngx.so libnvidia-nvvm.so libnvidia-opencl.so"
    " libnvidia-opticalflow.so libnvidia-ptxjitcompiler.so libnvidia-rtcore.so libnvidia-tls.so",
    "nv program": "nvidia-smi nvidia-debugdump nvidia-persistenced nvidia-cuda-mps-control"
    " nvidia-cuda-mps-server",
    "nv device": "/dev/nvidia*",
    "nv file": "/etc/OpenCL/vendors/nvidia.icd /run/nvidia-persistenced/socket",
    "rocm library": "libhsa-runtime64.so.1 libhsa-runtime64.so libhsakmt.so libamdhip64.so"
    " libamd_comgr.so librocm_smi64.so libamd_smi.so librocprofiler-register.so"
    " libdrm.so libdrm_amdgpu.so",
    "rocm program": "rocm-smi rocminfo amd-smi",
    "rocm device": "/dev/kfd /dev/dri",
    "rocm file": "/etc/OpenCL/vendors/amdocl64.icd /usr/share/libdrm",
    # libibverbs looks for its providers, *-rdmavN.so, along the library path, too.
    "fabric library": "libibverbs.so.1 libibverbs.so librdmacm.so libibumad.so libibmad.so"
    " libmlx4.so libmlx5.so libefa.so libfabric.so libpsm2.so libpsm_infinipath.so libcxi.so"
    " /usr/lib*/libibverbs/*-rdmav*.so /usr/lib/*/libibverbs/*-rdmav*.so",
    "fabric program": "ibv_devinfo ibv_devices ibstat fi_info",
    "fabric device": "/dev/infiniband /dev/hfi1* /dev/ipath* /dev/cxi* /dev/knem /dev/xpmem",
    "fabric file": "/etc/libibverbs.d /usr/lib*/libfabric /usr/lib/*/libfabric",
}


def driver_words(site: "Site", kind: str, thing: str) -> list[str]:
    """Return our words, then the site's; an empty value of the site clears the list so far."""
    words = [*_LISTS[f"{kind} {thing}"].split(), *site.lists.get(f"{kind} {thing}", [])]
    last_empty = max((place for place, word in enumerate(words, 1) if not word), default=0)
    return words[last_empty:]
