"""From a checkpoint to answers: exported files, prediction, the contact sheet."""
