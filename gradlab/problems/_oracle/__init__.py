"""Exact bounds, gradients and estimator moments, by quadrature and closed forms."""
