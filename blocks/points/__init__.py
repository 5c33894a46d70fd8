"""Sets of points in space: atoms, voxels. Their order says nothing, and who is near whom is found from where they are."""
