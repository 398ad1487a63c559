"""What the panel does without Slicer: the proposal, the process that does the work, what is installed."""
