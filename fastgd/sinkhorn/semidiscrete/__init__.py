"""Semi-discrete transport: from draws of a source to atoms, by stochastic gradients of decreasing regularisation."""
