"""The only JAX and Flax: targets, shardings, plans that run, whole jobs in one call."""
