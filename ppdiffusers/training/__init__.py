"""Training every model family on one's own pictures: `ppdiffusers train`, or `train(read_configuration(file), out)`."""
