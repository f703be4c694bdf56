"""What the machine offers: the device, a fast BLAS for the CPU, a compiler, threads and memory; and forks."""
from ..lazy import lazy_names
from . import fork as _fork  # noqa: F401  # notices forks from now on; imports no other library

__getattr__, __dir__, __all__ = lazy_names(__name__, {
    "blas": ["BlasStatus", "cpu_threads", "is_linux_cpu"],
    "device": ["DeviceError", "bf16_problem", "can_compile", "cores_for_parts", "ensure_ready", "fit_cache_limit", "prepared",
               "select_device"],
    "fork": ["ForkError", "aside", "check_fork", "claim_mlx"],
    "heap": ["release_freed"],
    "info": ["MachineInfo", "machine_info", "version"],
})
