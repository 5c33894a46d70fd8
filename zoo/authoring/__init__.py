"""What writes packages of plugins, their indexes, and the core's."""
