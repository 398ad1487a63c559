"""Several stacks of one patient into one volume: common grid, registration, joint consistency with every stack."""
