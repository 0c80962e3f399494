"""Where this process stands among the processes of its job, on ModelArts or not."""
from src.model_utils.local_adapter import Place, local_place
from src.model_utils.moxing_adapter import modelarts_place


def find_place(enable_modelarts: bool) -> Place:
    """Device id, rank, number of ranks and machines, and job id, as the environment tells them.

    Raises:
        UserError: a variable of the environment is not a number.
    """
    return modelarts_place() if enable_modelarts else local_place()
