"""Denoised smoothing as an application: denoisers are trained, kept in files, shown, and put before any classifier."""
