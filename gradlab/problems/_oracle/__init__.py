"""Compute exact bounds, gradients and estimator moments, by quadrature and closed forms."""
