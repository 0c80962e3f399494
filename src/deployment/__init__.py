"""Using a trained network: exported files, prediction, the contact sheet."""
