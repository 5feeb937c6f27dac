"""What `voxshard demo` needs: a corpus that it makes, and the config of an experiment on it."""
