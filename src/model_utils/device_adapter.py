"""The process environment, on ModelArts or elsewhere."""
from src.model_utils.local_adapter import ProcessEnvironment, local_environment
from src.model_utils.moxing_adapter import modelarts_environment


def find_process_environment(enable_modelarts: bool) -> ProcessEnvironment:
    """Device id, rank, number of ranks and machines, and job id, from environment variables.

    Raises:
        UserError: an environment variable is not a number.
    """
    return modelarts_environment() if enable_modelarts else local_environment()
