"""What MONAI's SupervisedTrainer needs to train the networks."""
