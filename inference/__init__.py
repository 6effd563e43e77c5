"""From a picture and a driving video to a result."""
