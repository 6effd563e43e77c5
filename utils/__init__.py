"""What knows nothing of this method: errors, programs, files, values, devices, processes."""
