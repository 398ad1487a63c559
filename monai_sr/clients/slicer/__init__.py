"""monai-sr in 3D Slicer: the command line module's description, what it says on the way, and overlays.

The folder ``extension`` beside this file is what Slicer loads. Nothing is imported here: Slicer asks
for the description at every start, and torch would take longer than it waits.
"""
