"""What a training run is made of, beside its loop and step in train.py."""
