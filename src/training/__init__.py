"""What a training run is made of: the step, its record on disk, resuming, stopping."""
