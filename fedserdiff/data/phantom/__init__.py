"""Synthetic releases on real (MNI152) anatomy, written as NIfTI in each release's convention."""
