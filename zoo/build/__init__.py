"""From a Spec to modules: the builder, the one Backbone class, initialisation."""
