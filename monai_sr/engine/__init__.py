"""What computes a network: torch or OpenVINO, in tiles or rows, within the memory there is."""
