"""C++ kernels that train and evaluate MobileNetV2 on a CPU, in place of the framework's own."""
from src.cpu_kernels.all_reduce import rank_sum
from src.cpu_kernels.cells import accelerate
from src.cpu_kernels.compiler import KernelsUnavailable
from src.cpu_kernels.optimizer import accelerate_optimizer, ema_update, finite_check

__all__ = ["KernelsUnavailable", "accelerate", "accelerate_optimizer", "ema_update", "finite_check", "rank_sum"]
